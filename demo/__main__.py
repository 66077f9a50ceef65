"""`make demo`: the whole loop on one machine, as a client sees it. Starts a hub and three cores as processes, speaks boto3, MQTT
and the command line, imports nothing of hub, edge or ml. Exits 1 with the reason when a promise is not kept. KEEP=1 leaves all
running, DEMO_STEPS=n ends after step n. Everything lies in var/demo, made anew each time.
"""

import os
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path

from demo import step1_fleet, step2_first_model, step3_run, step4_cable_out, step5_retrain, step6_broken, step7_closing
from demo.processes import family
from demo.show import Show, Stopped
from demo.world import World

FOLDER = Path("var/demo")
STEPS = (step1_fleet, step2_first_model, step3_run, step4_cable_out, step5_retrain, step6_broken, step7_closing)
ALL_WITHIN_S = 240.0


def main() -> int:
    show = Show()
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    reason = ""
    last = int(os.environ.get("DEMO_STEPS", len(STEPS)))
    with family() as children:
        world = World(show, children, FOLDER)
        try:
            for number, step in enumerate(STEPS[:last], start=1):
                with show.step(number, step.TITLE):
                    step.run(world)
            show.promise(show.elapsed_s <= ALL_WITHIN_S, f"all in {show.elapsed_s:.0f} s (limit {ALL_WITHIN_S:.0f} s)")
        except Stopped as stopped:
            reason = str(stopped)
        except KeyboardInterrupt:
            reason = "interrupted"
        except Exception as error:  # the last line must say what happened, and the children must end
            traceback.print_exc()
            reason = f"{type(error).__name__}: {error}"
        if reason:
            show.failed.append(reason)
        _verdict(show)
        if os.environ.get("KEEP") == "1" and reason != "interrupted":
            _keep(world)
    return 1 if show.failed else 0


def _verdict(show: Show) -> None:
    show.table(
        "time", ("step", "seconds"), [(f"{each.number} {each.title}", f"{each.seconds:.1f}") for each in show.steps]
    )
    if not show.failed:
        print(f"\nAll {show.kept} promises kept in {show.elapsed_s:.0f} s.", flush=True)
        return
    print(f"\n{len(show.failed)} of {show.kept + len(show.failed)} promises NOT kept:", flush=True)
    for text in show.failed:
        print(f"  - {text}", flush=True)


def _keep(world: World) -> None:
    from demo import processes

    print(f"\nKEEP=1: hub and cores go on. Data in {world.folder}.")
    try:
        print(f"console: {processes.run('login', '--data', world.hub_dir).strip()}")
    except Stopped as stopped:
        print(f"console: {stopped}")
    print(f'  eval "$(.venv/bin/marram hub env --data {world.hub_dir})"')
    print(f"  .venv/bin/marram edge component list --root {world.cores[0].root}")
    print("Ctrl-C ends all of it.", flush=True)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        while True:
            time.sleep(1)
    except KeyboardInterrupt:
        print("\nending", flush=True)


if __name__ == "__main__":
    sys.exit(main())
