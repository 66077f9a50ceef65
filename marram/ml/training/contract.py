"""SageMaker's contract for algorithms: folders, configuration files, SM_* variables, arguments. Pure of process control.

Source: the toolkit sagemaker-training 5.1.4 (`to_env_vars`) and "How Amazon SageMaker AI runs your training image". Paths
below are of one job's private folder; a job in a mount namespace sees the same as /opt/ml. What a program left is read here
without following a link: it may lead to what the program could not read itself.
"""

import errno
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from marram.core import codec
from marram.core.codec import JsonObject
from marram.core.errors import Invalid

FOLDERS: Final = ("input/config", "input/data", "model", "output/data", "output/intermediate", "checkpoints", "code")
RESERVED: Final = ("sagemaker_program", "sagemaker_submit_directory")


def lay_out(root: Path, *, hyperparameters: Mapping[str, str], channels: Mapping[str, JsonObject]) -> None:
    """Make the folders and the three configuration files below `root` (the /opt/ml of the job)."""
    for folder in FOLDERS:
        (root / folder).mkdir(parents=True, exist_ok=True)
    config = root / "input/config"
    resources: JsonObject = {"current_host": "algo-1", "hosts": ["algo-1"], "network_interface_name": "lo"}
    for name, value in (
        ("hyperparameters", dict(hyperparameters)),
        ("resourceconfig", resources),
        ("inputdataconfig", dict(channels)),
    ):
        (config / f"{name}.json").write_bytes(codec.dumps(value))


def environment(
    root: Path,
    *,
    seen: Path,
    job: str,
    job_arn: str,
    hyperparameters: Mapping[str, str],
    channels: Mapping[str, JsonObject],
    program: str,
    cpus: int,
    instance_type: str,
) -> dict[str, str]:
    """The SM_* variables, with paths below `seen`: where the program sees `root`."""
    user = {name: value for name, value in hyperparameters.items() if not name.startswith("sagemaker_")}
    names = sorted(channels)
    env = {
        "TRAINING_JOB_NAME": job,
        "TRAINING_JOB_ARN": job_arn,
        "SM_MODEL_DIR": str(seen / "model"),
        "SM_INPUT_DIR": str(seen / "input"),
        "SM_INPUT_CONFIG_DIR": str(seen / "input/config"),
        "SM_OUTPUT_DIR": str(seen / "output"),
        "SM_OUTPUT_DATA_DIR": str(seen / "output/data"),
        "SM_OUTPUT_INTERMEDIATE_DIR": str(seen / "output/intermediate"),
        "SM_CHANNELS": _json(names),
        "SM_HPS": _json(user),
        "SM_USER_ARGS": _json(arguments(hyperparameters)),
        "SM_HOSTS": '["algo-1"]',
        "SM_CURRENT_HOST": "algo-1",
        "SM_NUM_CPUS": str(cpus),
        "SM_NUM_GPUS": "0",
        "SM_NUM_NEURONS": "0",
        "SM_CURRENT_INSTANCE_TYPE": instance_type,
        "SM_CURRENT_INSTANCE_GROUP": "homogeneousCluster",
        "SM_INSTANCE_GROUPS": '["homogeneousCluster"]',
        "SM_NETWORK_INTERFACE_NAME": "lo",
        "SM_LOG_LEVEL": "20",
        "SM_FRAMEWORK_PARAMS": "{}",
        "SM_RESOURCE_CONFIG": (root / "input/config/resourceconfig.json").read_text(),
        "SM_INPUT_DATA_CONFIG": (root / "input/config/inputdataconfig.json").read_text(),
        "SM_MODULE_NAME": program.removesuffix(".py"),
        "SM_MODULE_DIR": str(seen / "code"),
        "SM_USER_ENTRY_POINT": program,
    }
    for name in names:
        env[f"SM_CHANNEL_{name.upper().replace('-', '_')}"] = str(seen / "input/data" / name)
    for name, value in user.items():
        env[f"SM_HP_{name.upper().replace('-', '_')}"] = value
    return env


def arguments(hyperparameters: Mapping[str, str]) -> list[str]:
    """--name value, sorted; a one-letter name has one dash."""
    argv: list[str] = []
    for name, value in sorted(hyperparameters.items()):
        if not name.startswith("sagemaker_"):
            argv += [f"{'-' if len(name) == 1 else '--'}{name}", value]
    return argv


def failure(root: Path) -> str:
    """What the program wrote for people into output/failure, at most 1,024 characters."""
    return (left(root, "output/failure", 4096) or b"").decode(errors="replace")[:1024]


def left(root: Path, path: str, limit: int) -> bytes | None:
    """The first `limit` bytes of a file that the program left below `root`; None when it is none, or behind a link."""
    try:
        found = _open(root, path, os.O_NONBLOCK)  # a FIFO would wait for a writer
    except OSError:
        return None
    with open(found, "rb") as file:
        return file.read(limit) if stat.S_ISREG(os.fstat(found).st_mode) else None


def check_folder(root: Path, path: str) -> Path:
    """Raises Invalid when `path` below `root` is no folder, or behind a link."""
    try:
        os.close(_open(root, path, os.O_DIRECTORY))
    except OSError as exc:
        why = "a link" if exc.errno in (errno.ELOOP, errno.ENOTDIR) else exc.strerror
        raise Invalid(f"/opt/ml/{path} cannot be read: {why}") from exc
    return root / path


def _open(root: Path, path: str, flags: int) -> int:
    at = os.open(root, os.O_PATH | os.O_DIRECTORY)
    *folders, name = path.split("/")
    try:
        for folder in folders:
            inner = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=at)
            os.close(at)
            at = inner
        return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | flags, dir_fd=at)
    finally:
        os.close(at)


def check_program(program: str) -> str:
    if not program or "/" in program or program.startswith((".", "-")):
        raise Invalid(f"sagemaker_program {program!r} must be a file at the top of sagemaker_submit_directory")
    return program


def _json(value: object) -> str:
    return codec.dumps(value).decode()
