"""A component made ready to run on this device: platform chosen, variables filled in, environment put together.

Two signatures decide what a change means (AWS): another version, install text or user = reinstall; another script or
environment = restart; else nothing but a configuration event.
"""

import hashlib
import os
import platform
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from marram.core import codec, config_tree, recipe
from marram.core.config_tree import Tree
from marram.core.errors import NotFound
from marram.core.recipe import Lifecycle, Step
from marram.edge.nucleus.component import Component
from marram.edge.nucleus.root import SOCKET_LIMIT, Root

VERSION: Final = "2.18.0"  # what components see in GGC_VERSION: the nucleus whose behaviour ours follows
INSTALL_STEPS: Final = ("bootstrap", "install", "uninstall")
MARKER: Final = "MARRAM_COMPONENT_OF"
# Of the core's own environment only these reach a component: PYTHONPATH and the like must not leak.
KEPT: Final = (
    *("PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "USER", "LOGNAME", "SHELL", "TMPDIR"),
    *("http_proxy", "https_proxy", "no_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """What a component is told about where it runs. `path_first` is put before PATH, so that `python3` is ours."""

    root: Root
    thing: str
    region: str
    root_ca: str
    path_first: str
    attributes: Mapping[str, str]
    extra: Mapping[str, str]  # e.g. AWS_CONTAINER_CREDENTIALS_FULL_URI, once something serves it


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    component: Component
    lifecycle: Lifecycle
    environment: Mapping[str, str]
    install_signature: str
    run_signature: str

    def step(self, name: str) -> Step | None:
        return self.lifecycle.steps.get(name)


def device_attributes(override: Mapping[str, str] | None = None) -> dict[str, str]:
    machine = platform.machine().lower()
    architecture = {"x86_64": "amd64", "amd64": "amd64", "arm64": "aarch64", "i386": "x86", "i686": "x86"}.get(machine)
    if architecture is None:
        architecture = "arm" if machine.startswith("arm") else machine
    return {
        "os": sys.platform if sys.platform != "win32" else "windows",
        "architecture": architecture,
        "architecture.detail": machine,
        "runtime": "aws_nucleus_lite",
        **(override or {}),
    }


def prepare(component: Component, device: Device, tree: Callable[[str], Tree]) -> Prepared:
    """Raises Invalid when no manifest fits or a filled-in timeout is no number."""
    chosen = recipe.select(component.recipe, device.attributes).lifecycle
    lookup = _lookup(component, device, tree)

    def fill(text: str) -> str:
        return recipe.interpolate(text, lookup)

    def fill_all(values: Mapping[str, str]) -> dict[str, str]:
        return {name: fill(value) for name, value in values.items()}

    def fill_step(name: str, step: Step) -> Step:
        timeout = fill(step.timeout)
        if timeout:
            recipe.seconds(timeout, f"{component.name}: {name}.Timeout")
        skip = step.skip and replace(step.skip, argument=fill(step.skip.argument))
        return replace(
            step, script=fill(step.script), timeout=timeout, skip=skip, environment=fill_all(step.environment)
        )

    lifecycle = Lifecycle(
        environment=fill_all(chosen.environment),
        steps={name: fill_step(name, step) for name, step in chosen.steps.items()},
    )
    health = component.recipe.health
    if health.script:
        lifecycle = replace(lifecycle, steps={**lifecycle.steps, "health": Step(script=fill(health.script))})
    environment = _environment(component.name, device) | dict(lifecycle.environment)
    installs = {name: repr(lifecycle.steps.get(name)) for name in INSTALL_STEPS}
    runs = {name: repr(step) for name, step in lifecycle.steps.items() if name not in INSTALL_STEPS}
    return Prepared(
        component=component,
        lifecycle=lifecycle,
        environment=environment,
        install_signature=_digest([component.version, installs, component.run_with, dict(component.artifacts)]),
        run_signature=_digest([runs, environment, repr(component.recipe.restart), repr(health)]),
    )


def _digest(value: object) -> str:
    return hashlib.sha256(codec.canonical(value)).hexdigest()


def _lookup(component: Component, device: Device, tree: Callable[[str], Tree]) -> recipe.Lookup:
    versions = {component.name: component.version}
    recipes = {component.name, *component.recipe.dependencies}

    def lookup(other: str | None, namespace: str, key: str) -> str | None:
        name = other or component.name
        if name not in recipes:
            return None
        match namespace, key:
            case "artifacts", "path" if name in versions:
                return str(device.root.artifacts(name, versions[name]))
            case "artifacts", "decompressedPath" if name in versions:
                return str(device.root.unarchived(name, versions[name]))
            case "work", "path":
                return str(device.root.work(name))
            case "kernel", "rootPath":
                return str(device.root.path)
            case "iot", "thingName":
                return device.thing
            case "configuration", _:
                try:
                    return recipe.as_text(config_tree.at_pointer(tree(name), key))
                except NotFound:
                    return None
            case _:
                return None

    return lookup


def _environment(name: str, device: Device) -> dict[str, str]:
    made = {key: os.environ[key] for key in KEPT if key in os.environ}
    made["PATH"] = os.pathsep.join(filter(None, (device.path_first, made.get("PATH", os.defpath))))
    socket = str(device.root.ipc_socket)
    if len(os.fsencode(socket)) > SOCKET_LIMIT:
        socket = os.path.relpath(socket, device.root.work(name))  # scripts run there; AWS's nucleus does the same
    made |= {
        "AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH": socket,
        "AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT": socket,
        "AWS_IOT_THING_NAME": device.thing,
        "AWS_REGION": device.region,
        "AWS_DEFAULT_REGION": device.region,
        "GGC_VERSION": VERSION,
        "GG_ROOT_CA_PATH": device.root_ca,
        MARKER: str(device.root.path),
    }
    return made | dict(device.extra)


def interpreter_folder() -> str:
    """The folder of the running interpreter, unresolved: in a virtual environment its `python3` is the environment's."""
    return str(Path(sys.executable).parent)
