"""Tags as iot's operations write them. Who keeps them is the registry (its `tags`)."""

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
