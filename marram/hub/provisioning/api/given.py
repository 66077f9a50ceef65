"""What several operations take."""

from marram.core.errors import Invalid
from marram.hub.slice import Params


def tags_of(params: Params) -> dict[str, str]:
    """Raises Invalid for a key that is there twice."""
    found: dict[str, str] = {}
    for tag in params.get("tags") or []:
        if tag["Key"] in found:
            raise Invalid(f"tags: the key {tag['Key']!r} is given twice")
        found[tag["Key"]] = tag.get("Value") or ""
    return found
