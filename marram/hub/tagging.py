"""Tags as iot's operations write them. Who keeps them is the registry (its `tags`)."""

from urllib.parse import parse_qsl

from marram.core.errors import Invalid
from marram.hub.slice import Params


def read(params: Params) -> dict[str, str]:
    """Of a creation or of TagResource; a missing value is empty. Raises Invalid for one key twice."""
    found: dict[str, str] = {}
    for each in params.get("tags") or ():
        if each["Key"] in found:
            raise Invalid(f"the tag key {each['Key']!r} is there twice")
        found[each["Key"]] = str(each.get("Value") or "")
    return found


def read_header(text: str | None) -> dict[str, str]:
    """As CreateTopicRule has them, in `x-amz-tagging`: `a=1&b=2`. Raises Invalid."""
    found: dict[str, str] = {}
    try:
        pairs = parse_qsl(text or "", keep_blank_values=True, strict_parsing=bool(text), errors="strict")
    except ValueError as error:
        raise Invalid("tags are key=value pairs in URL encoding, with & between them") from error
    for key, value in pairs:
        if key in found:
            raise Invalid(f"the tag key {key!r} is there twice")
        found[key] = value
    return found
