"""republish: the result as a message on another topic. `$$aws/...` means `$aws/...` (AWS: $ begins a template)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from marram.core import topic as topics
from marram.core.errors import Invalid
from marram.core.sql.template import Template
from marram.hub.rules.action import Event, Out, action, only, parse_template

WHAT: Final = "the action republish"


@dataclass(frozen=True, slots=True, kw_only=True)
class Republish:
    topic: Template
    qos: int
    reads_payload: bool


def _parse(settings: Mapping[str, Any]) -> Republish:
    only(settings, {"roleArn", "topic", "qos"}, WHAT)
    parsed = parse_template(settings, "topic", WHAT)
    if parsed.constant is not None:
        topics.check_name(_unescaped(parsed.constant))
    qos = settings.get("qos") or 0
    if qos not in (0, 1):
        raise Invalid(f"{WHAT}: qos is 0 or 1, not {qos}")
    return Republish(topic=parsed, qos=qos, reads_payload=parsed.reads_payload)


@action("republish", parse=_parse)
async def republish(settings: Republish, event: Event, out: Out) -> None:
    out.publish(topics.check_name(_unescaped(settings.topic.render(event.message))), event.payload(), qos=settings.qos)


def _unescaped(topic: str) -> str:
    return topic[1:] if topic.startswith("$$") else topic
