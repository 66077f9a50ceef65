"""What names and attributes may look like, and the ARNs of what the registry keeps. Pure.

Source: botocore's model of iot (patterns and lengths). The border holds requests against the same model; these rules are
for everybody else who makes things: imports, provisioning, joining.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from marram.core import arn
from marram.core.errors import Invalid, LimitExceeded, VersionConflict

NAME: Final = re.compile(r"[a-zA-Z0-9:_-]{1,128}")
ATTRIBUTE_NAME: Final = re.compile(r"[a-zA-Z0-9_.,@/:#-]{1,128}")
ATTRIBUTE_VALUE: Final = re.compile(r"[a-zA-Z0-9_.,@/:#=\[\]-]{0,800}")
MAX_ATTRIBUTES: Final = 50
MAX_UNTYPED_ATTRIBUTES: Final = 3


@dataclass(frozen=True, slots=True)
class Arns:
    region: str
    account: str

    def thing(self, name: str) -> str:
        return arn.build("iot", self.region, self.account, f"thing/{name}")

    def type(self, name: str) -> str:
        return arn.build("iot", self.region, self.account, f"thingtype/{name}")

    def group(self, name: str) -> str:
        return arn.build("iot", self.region, self.account, f"thinggroup/{name}")


def check_name(name: str, what: str) -> None:
    if not NAME.fullmatch(name):
        raise Invalid(f"{name!r} is not a {what} name: 1 to 128 of a-z A-Z 0-9 : _ -")


def check_attributes(attributes: Mapping[str, str]) -> dict[str, str]:
    for name, value in attributes.items():
        if not ATTRIBUTE_NAME.fullmatch(name):
            raise Invalid(f"attribute name {name!r}: 1 to 128 of a-z A-Z 0-9 _ . , @ / : # -")
        if not ATTRIBUTE_VALUE.fullmatch(value):
            raise Invalid(f"attribute {name!r}: the value may have up to 800 of a-z A-Z 0-9 _ . , @ / : # = [ ] -")
    if len(attributes) > MAX_ATTRIBUTES:
        raise LimitExceeded(f"at most {MAX_ATTRIBUTES} attributes", limit=MAX_ATTRIBUTES)
    return dict(attributes)


def check_number(attributes: Mapping[str, str], type_name: str) -> None:
    """Of a thing. Source: AWS IoT Core developer guide, "Thing types"."""
    if not type_name and len(attributes) > MAX_UNTYPED_ATTRIBUTES:
        raise LimitExceeded(
            f"a thing without a thing type has at most {MAX_UNTYPED_ATTRIBUTES} attributes; with one, {MAX_ATTRIBUTES}",
            limit=MAX_UNTYPED_ATTRIBUTES,
        )


def first_attributes(asked: Mapping[str, str] | None) -> dict[str, str]:
    """Of something new: those with an empty value are none."""
    return check_attributes({name: value for name, value in (asked or {}).items() if value})


def changed_attributes(present: Mapping[str, str], asked: Mapping[str, str] | None, *, merge: bool) -> dict[str, str]:
    """None asks for no change; an empty value removes.

    Without `merge` an empty set is a set like any other: it leaves none.
    """
    if asked is None:
        return dict(present)
    ground = {**present, **asked} if merge else asked
    return check_attributes({name: value for name, value in ground.items() if value})


def check_version(what: str, name: str, present: int, expected: int | None) -> None:
    if expected is not None and expected != present:
        raise VersionConflict(f"{what} {name} has version {present}, not {expected}", version=present)
