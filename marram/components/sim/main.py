"""One process of the simulator: devices FIRST to FIRST + COUNT of a fleet. Started by `marram sim run`, by hand as well.

Settings come as one JSON object on standard input; each second a JSON line with counts goes to standard output. It ends
with its input, or at SIGTERM, after every device has said goodbye.
"""

import asyncio
import contextlib
import os
import random
import resource
import signal
import ssl
import sys
from collections import Counter
from typing import Final, cast

from marram.components.sim import profile as profiles
from marram.components.sim.device import Device, Hub, Part
from marram.core import codec
from marram.core.codec import JsonObject, JsonValue
from marram.core.errors import MarramError

TELL_S: Final = 1.0


def main() -> int:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        given = codec.loads_object(sys.stdin.readline(), what="settings")
        asyncio.run(_main(given))
    except MarramError as exc:
        print(f"sim: {exc.message}", file=sys.stderr)
        return 1
    return 0


async def _main(given: JsonObject) -> None:
    """`given`: prefix, devices, first, count, seed, profile, mqtt and https as [host, port], ca, certificate, key."""
    first, count, devices = (int(cast(int, given[name])) for name in ("first", "count", "devices"))
    profile = profiles.load(str(given["profile"]))
    drawn = profiles.roles(profile, devices, int(cast(int, given["seed"])))
    counts: Counter[str] = Counter()
    hub = Hub(mqtt=_place(given["mqtt"]), https=_place(given["https"]), tls=_tls(given), tls_https=_tls(given))
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop.set)
    loop.add_reader(sys.stdin.fileno(), lambda: None if os.read(sys.stdin.fileno(), 4096) else stop.set())
    tasks: list[asyncio.Task[None]] = []
    starting = asyncio.create_task(
        _start(tasks, profile, drawn, hub, counts, str(given["prefix"]), range(first, first + count), devices)
    )
    while not stop.is_set():
        print(codec.dumps(dict[str, JsonValue](counts)).decode(), flush=True)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(TELL_S):
                await stop.wait()
    starting.cancel()
    for task in tasks:
        task.cancel()
    await asyncio.gather(starting, *tasks, return_exceptions=True)
    loop.remove_reader(sys.stdin.fileno())
    print(codec.dumps(dict[str, JsonValue](counts)).decode(), flush=True)


async def _start(
    tasks: list["asyncio.Task[None]"], profile: profiles.Profile, drawn: profiles.Roles, hub: Hub,
    counts: "Counter[str]", prefix: str, numbers: range, devices: int,
) -> None:  # fmt: skip
    """At this process's share of the fleet's pace."""
    pace = profile.connect.per_s * len(numbers) / max(1, devices)
    for at, number in enumerate(numbers):
        ends = next(
            (
                word
                for word, of in (("FAILED", drawn.failed), ("REJECTED", drawn.rejected), ("", drawn.silent))
                if number in of
            ),
            "SUCCEEDED",
        )
        part = Part(follows=profile.shadow.behaviour == "follow" and number not in drawn.stuck, job_ends=ends)
        device = Device(
            f"{prefix}-{number}",
            profile,
            part,
            hub,
            counts,
            random.Random(f"{prefix} {number}"),  # noqa: S311
        )
        tasks.append(asyncio.create_task(device.run(), name=device.thing))
        if (at + 1) % max(1, round(pace / 10)) == 0:
            await asyncio.sleep(max(1, round(pace / 10)) / pace)


def _place(value: JsonValue) -> tuple[str, int]:
    host, port = cast("list[JsonValue]", value)
    return str(host), int(cast(int, port))


def _tls(given: JsonObject) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(given["ca"]))
    context.load_cert_chain(str(given["certificate"]), str(given["key"]))
    return context


if __name__ == "__main__":
    sys.exit(main())
