"""Runs many commands of aws-cli without starting it for each: in the Python of aws-cli, a child of a process that has it loaded.

Standard input: one JSON list a line, the words after `aws`. Standard output: one JSON object a line, {"code", "out", "err"}.
What a command does is aws-cli's own `main` from the first to the last line; only the loading is shared.
"""

import json
import os
import sys
import tempfile

from awscli.clidriver import create_clidriver  # type: ignore[import-not-found]


def main() -> None:
    driver = create_clidriver()
    for service in ("iot", "iot-data", "iot-jobs-data", "iam", "sts"):
        driver.session.create_client(service)  # reads the models
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            pid = os.fork()
            if pid == 0:
                os.dup2(out.fileno(), 1)
                os.dup2(err.fileno(), 2)
                try:
                    code = driver.main(json.loads(line))
                    sys.stdout.flush()
                    sys.stderr.flush()
                except SystemExit as exc:
                    code = exc.code if isinstance(exc.code, int) else 1
                finally:
                    os._exit(code or 0)
            _, status = os.waitpid(pid, 0)
            texts = {}
            for name, file in (("out", out), ("err", err)):
                file.seek(0)
                texts[name] = file.read().decode(errors="replace")
        print(json.dumps({"code": os.waitstatus_to_exitcode(status), **texts}), file=answers, flush=True)


if __name__ == "__main__":
    main()
