"""Who may call what: `accessControl` of a component's configuration, compiled once, deny by default.

Form: accessControl.<service>.<policy id>.{operations: ["aws.greengrass#Op" | "*"], resources: [...]}. In a resource `*` is any
text and `${*}`, `${?}`, `${$}` are the characters themselves. Topics of the MQTT proxy also understand `+` and `#`; for local
pub/sub they are plain characters. Source: AWS IoT Greengrass V2 Developer Guide, "Authorize components to perform IPC operations".
"""

import re
from collections.abc import Callable, Mapping
from typing import Final

from marram.core.codec import JsonValue
from marram.core.errors import Denied, Invalid
from marram.kit.log import logger

log = logger(__name__)

PUBSUB: Final = "aws.greengrass.ipc.pubsub"
MQTT_PROXY: Final = "aws.greengrass.ipc.mqttproxy"
LIFECYCLE: Final = "aws.greengrass.ipc.lifecycle"
SHADOWS: Final = "aws.greengrass.ShadowManager"
CLI: Final = "aws.greengrass.Cli"
CLI_TOKEN: Final = "greengrass-cli#"  # noqa: S105 - the prefix of an owner's name, as the nucleus writes it

MAX_VERDICTS: Final = 10_000

Rule = tuple[frozenset[str], tuple[re.Pattern[str], ...]]


class Authorisation:
    """`policies(component)` gives the component's accessControl, or None."""

    def __init__(self, policies: Callable[[str], JsonValue], *, thing_name: str = "") -> None:
        self._policies = policies
        self._thing = thing_name
        self._rules: dict[str, dict[str, list[Rule]]] = {}
        self._verdicts: dict[tuple[str, str, str, str], bool] = {}

    def forget(self, component: str | None = None) -> None:
        """Call when a component's accessControl has changed; None forgets all."""
        if component is None:
            self._rules.clear()
        else:
            self._rules.pop(component, None)
        self._verdicts.clear()

    def may(self, component: str, service: str, operation: str, resource: str) -> bool:
        key = (component, service, operation, resource)
        verdict = self._verdicts.get(key)
        if verdict is None:
            if len(self._verdicts) >= MAX_VERDICTS:
                self._verdicts.clear()
            verdict = self._verdicts[key] = self._decide(component, service, operation, resource)
        return verdict

    def require(self, component: str, service: str, operation: str, resource: str) -> None:
        """Raises Denied, naming what a recipe would have to allow."""
        if not self.may(component, service, operation, resource):
            raise Denied(
                f"Principal {component} is not authorized to perform {service}:{operation} on resource {resource}",
                component=component,
                resource=resource,
            )

    def _decide(self, component: str, service: str, operation: str, resource: str) -> bool:
        if service == CLI and component.startswith(CLI_TOKEN):
            return True
        rules = self._rules.get(component)
        if rules is None:
            rules = self._rules[component] = compile_rules(self._policies(component), self._thing, component)
        return any(
            (operation in operations or "*" in operations) and any(p.fullmatch(resource) for p in patterns)
            for operations, patterns in rules.get(service, ())
        )


def compile_rules(document: JsonValue, thing: str, component: str) -> dict[str, list[Rule]]:
    """A policy that is malformed grants nothing and is logged; the others of the component still count."""
    compiled: dict[str, list[Rule]] = {}
    if not isinstance(document, Mapping):
        return compiled
    for service, policies in document.items():
        for policy_id, policy in policies.items() if isinstance(policies, Mapping) else ():
            try:
                rule = _rule(policy, service, thing)
            except Invalid as exc:
                log.warning(
                    "ipc.policy_ignored", component=component, service=service, policy=policy_id, why=exc.message
                )
                continue
            compiled.setdefault(service, []).append(rule)
    return compiled


def _rule(policy: JsonValue, service: str, thing: str) -> Rule:
    if not isinstance(policy, Mapping):
        raise Invalid("a policy must be an object")
    operations = _texts(policy.get("operations"), "operations")
    resources = _texts(policy.get("resources"), "resources")
    mqtt = service == MQTT_PROXY
    patterns = tuple(compile_resource(text.replace("{iot:thingName}", thing), mqtt=mqtt) for text in resources)
    return frozenset(operations), patterns


def _texts(value: JsonValue, what: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise Invalid(f"{what} must be an array of strings")
    return [item for item in value if isinstance(item, str)]


_PIECES: Final = re.compile(r"\$\{(.*?)\}|(\*)|(\+)|(/?#$)|(\?)|([^$*+#?/]+|.)", re.DOTALL)


def compile_resource(text: str, *, mqtt: bool) -> re.Pattern[str]:
    """Raises Invalid for escapes other than `${*}`, `${?}`, `${$}` and for a bare `?` (as nucleus lite)."""
    out: list[str] = []
    for escape, star, plus, tail, question, literal in (m.groups() for m in _PIECES.finditer(text)):
        if escape is not None:
            if escape not in ("*", "?", "$"):
                raise Invalid(f"resource {text!r}: ${{{escape}}} is unknown; there are ${{*}}, ${{?}} and ${{$}}")
            out.append(re.escape(escape))
        elif star:
            out.append(".*")
        elif question:
            raise Invalid(f"resource {text!r}: write ${{?}} for a question mark")
        elif plus and mqtt:
            # Not `#`: a request for "a/#" asks for more than the resource "a/+" grants.
            out.append("[^/#]*")
        elif tail and mqtt:
            out.append("(?:/.*)?" if tail == "/#" else ".*")
        else:
            out.append(re.escape(plus or tail or literal))
    return re.compile("".join(out), re.DOTALL)
