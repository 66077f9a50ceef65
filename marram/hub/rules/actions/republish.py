"""republish: the result as a message on another topic. `$$aws/...` means `$aws/...` (AWS: $ begins a template).

Only the rule's own text makes a topic reserved, and says how many levels it has: a message that could put
`$aws/things/T/jobs/...` there would speak as the hub to any core.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from marram.core import topic as topics
from marram.core.errors import Invalid
from marram.core.sql.template import Template
from marram.hub.rules.action import Event, Out, action, only, parse_template

WHAT: Final = "the action republish"
_RESERVED: Final = re.compile(r"\$\$?[^/]+/")


@dataclass(frozen=True, slots=True, kw_only=True)
class Republish:
    topic: Template
    is_reserved: bool
    slashes: int  # in the rule's own text
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
    texts = [part for part in parsed.parts if isinstance(part, str)]
    return Republish(
        topic=parsed,
        is_reserved=isinstance(parsed.parts[0], str) and _RESERVED.match(parsed.parts[0]) is not None,
        slashes=sum(text.count("/") for text in texts),
        qos=qos,
        reads_payload=parsed.reads_payload,
    )


@action("republish", parse=_parse)
async def republish(settings: Republish, event: Event, out: Out) -> None:
    topic = settings.topic.render(event.message)
    if settings.is_reserved:
        topic = _unescaped(topic)
        if topic.count("/") != settings.slashes:
            raise Invalid(f"the message adds levels to the reserved topic {topic[:200]!r}")
    elif topics.is_reserved(topic):
        raise Invalid(
            f"the message makes the topic {topic[:200]!r}: only the rule itself may name a reserved one ($$aws/...)"
        )
    out.publish(topics.check_name(topic), event.payload(), qos=settings.qos)


def _unescaped(topic: str) -> str:
    return topic[1:] if topic.startswith("$$") else topic
