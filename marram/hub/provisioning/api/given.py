"""What several operations take."""

from collections.abc import Mapping, Sequence

from marram.core.errors import Invalid
from marram.hub.slice import Params


def tags_of(params: Params) -> dict[str, str]:
    """Raises Invalid for a key that is there twice."""
    found: dict[str, str] = {}
    given: Sequence[Mapping[str, str]] = params.get("tags") or []
    for tag in given:
        if tag["Key"] in found:
            raise Invalid(f"tags: the key {tag['Key']!r} is given twice")
        found[tag["Key"]] = tag.get("Value") or ""
    return found
