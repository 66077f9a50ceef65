"""Texts with `${expression}` in them, as action settings have. Evaluated over the original payload, never the SELECT's result.

Source: AWS IoT developer guide, "Substitution templates".
"""

from dataclasses import dataclass

from marram.core.errors import Invalid
from marram.core.sql import evaluate, parser
from marram.core.sql.evaluate import Expression
from marram.core.sql.functions import Message


@dataclass(frozen=True, slots=True)
class Template:
    """`parts` are texts and expressions in order."""

    source: str
    parts: tuple[str | Expression, ...]
    reads_payload: bool

    @property
    def constant(self) -> str | None:
        """The text, when there is nothing to substitute."""
        return (
            "".join(part for part in self.parts if isinstance(part, str))
            if all(isinstance(p, str) for p in self.parts)
            else None
        )

    def render(self, message: Message) -> str:
        """Raises Invalid when an expression is Undefined or null: half a topic is no topic (our choice)."""
        made: list[str] = []
        for part in self.parts:
            if isinstance(part, str):
                made.append(part)
                continue
            text = evaluate.to_text(part(message))
            if text is None:
                raise Invalid(f"the template {self.source!r} has no value for this message")
            made.append(text)
        return "".join(made)


def parse(source: str) -> Template:
    """Raises SqlError for a bad expression, Invalid for a `${` that is not closed."""
    parts: list[str | Expression] = []
    reads = False
    at = 0
    while (start := source.find("${", at)) >= 0:
        if start > at:
            parts.append(source[at:start])
        end = _closing(source, start + 2)
        node = parser.expression(source[start + 2 : end])
        reads = reads or evaluate.reads_payload(node)
        parts.append(evaluate.compile_expression(node))
        at = end + 1
    if at < len(source):
        parts.append(source[at:])
    return Template(source, tuple(parts), reads)


def _closing(source: str, at: int) -> int:
    inside = False  # of a string, where a } is text
    for index in range(at, len(source)):
        if source[index] == "'":
            inside = not inside
        elif source[index] == "}" and not inside:
            return index
    raise Invalid(f"the template {source!r} has a ${{ at character {at - 1} that is not closed by }}")
