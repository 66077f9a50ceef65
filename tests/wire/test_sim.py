"""The simulator against a real hub: every device counted, jobs end as the seed says, shadows follow, nothing is left."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.xdist_group("sim")


@pytest.fixture
def sim() -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    made: list[subprocess.Popen[str]] = []

    def run(hub: Any, *words: str) -> "subprocess.Popen[str]":
        made.append(
            subprocess.Popen(
                [sys.executable, "-m", "marram.cli.main", "sim", "run", *words, "--json", "--data", str(hub.data)],
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )
        )  # fmt: skip
        return made[-1]

    yield run
    for process in made:
        process.kill()
        process.communicate()


def ended(process: "subprocess.Popen[str]") -> dict[str, int]:
    out, err = process.communicate(timeout=50)
    assert process.returncode == 0, err
    found = json.loads(out)
    assert isinstance(found, dict)
    return found


def test_jobs_end_and_shadows_follow_as_the_profile_says(
    start_hub: Callable[..., Any], sim: Callable[..., Any], wait_for: Callable[..., Any], tmp_path: Path
) -> None:
    profile = tmp_path / "profile.toml"
    profile.write_text(
        "[telemetry]\nevery_s = 0\n[jobs]\nfailed = 0.1\nrejected = 0.05\nsilent = 0.05\n[shadow]\nstuck = 0.1\n"
    )
    hub = start_hub()
    iot, data = hub.client("iot"), hub.client("iot-data")
    running = sim(hub, "--devices", "40", "--profile", str(profile), "--keep", "--seed", "5")
    things = wait_for(lambda: len(found := iot.list_things()["things"]) == 40 and found, "40 things")
    job = iot.create_job(jobId="update", targets=[thing["thingArn"] for thing in things], document='{"do": "update"}')
    assert job["jobId"] == "update"
    for thing in things:
        data.update_thing_shadow(thingName=thing["thingName"], payload=b'{"state": {"desired": {"mode": "eco"}}}')

    def counted() -> dict[str, int]:
        return dict(iot.describe_job(jobId="update")["job"]["jobProcessDetails"])

    def followed() -> int:
        states = [
            json.loads(data.get_thing_shadow(thingName=thing["thingName"])["payload"].read())["state"]
            for thing in things
        ]
        return sum("delta" not in state for state in states)

    wait_for(lambda: counted().get("numberOfSucceededThings") == 32, "32 successes")
    wait_for(lambda: followed() == 36, "36 shadows that follow")
    running.send_signal(signal.SIGTERM)
    counts = ended(running)
    details = counted()
    assert (details["numberOfFailedThings"], details["numberOfRejectedThings"]) == (4, 2)
    assert details["numberOfInProgressThings"] == 2  # begun, and never a word again
    assert counts["connects"] == 40 and counts["jobs_failed"] == 4
    run = subprocess.run(
        [sys.executable, "-m", "marram.cli.main", "sim", "clean", "--json", "--data", str(hub.data)],
        capture_output=True, text=True, timeout=50,
    )  # fmt: skip
    assert json.loads(run.stdout) == {"things": 40, "policies": 1}, run.stderr
    assert iot.list_things()["things"] == [] and iot.list_certificates()["certificates"] == []


@pytest.mark.parametrize(
    "text", ["[connect]\npattern = 'flapping'\nclean = false\non_s = 1\noff_s = 0.2\n", "[telemetry]\nover = 'https'\n"]
)
def test_devices_on_a_bad_line_and_by_https_publish_and_leave_nothing(
    start_hub: Callable[..., Any], sim: Callable[..., Any], tmp_path: Path, text: str
) -> None:
    profile = tmp_path / "profile.toml"
    profile.write_text(text + ("" if "[telemetry]" in text else "[telemetry]\n") + "every_s = 0.3\n")
    hub = start_hub()
    counts = ended(sim(hub, "--devices", "10", "--profile", str(profile), "--seconds", "5"))
    assert counts["published"] > 20 and not counts.get("refused"), counts
    if "flapping" in text:
        assert counts["cut"] > 5 and counts["connects"] > 10, counts
    assert hub.client("iot").list_things()["things"] == []
    assert hub.client("iot").list_policies()["policies"] == []


def test_what_cannot_be_is_refused_before_anything_is_made(
    start_hub: Callable[..., Any], marram: Callable[..., Any]
) -> None:
    hub = start_hub()
    for words, says in (
        (("--devices", "0"), "--devices is 1 to"),
        (("--profile", "nothing"), "there is no profile"),
        (("--seconds", "-1"), "--seconds is above 0"),
    ):
        run = marram("sim", "run", *words, "--data", hub.data)
        assert run.returncode == 1 and says in run.stderr, run.stderr
    assert hub.client("iot").list_things()["things"] == []
