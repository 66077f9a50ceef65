"""Amazon Resource Names: built and split here and nowhere else. Partition is always `aws` (our choice)."""

from dataclasses import dataclass

from marram.core.errors import Invalid


@dataclass(frozen=True, slots=True, kw_only=True)
class Arn:
    """`resource` is all that follows the fifth colon, slashes and colons included."""

    service: str
    region: str
    account: str
    resource: str
    partition: str = "aws"

    def __str__(self) -> str:
        return f"arn:{self.partition}:{self.service}:{self.region}:{self.account}:{self.resource}"


def build(service: str, region: str, account: str, resource: str) -> str:
    return f"arn:aws:{service}:{region}:{account}:{resource}"


def parse(text: str) -> Arn:
    """Raises Invalid when `text` has not the six parts of an ARN, or another partition: one thing has one ARN."""
    parts = text.split(":", 5)
    if len(parts) != 6 or parts[:2] != ["arn", "aws"] or not parts[2] or not parts[5]:
        raise Invalid(f"{text!r} is not an ARN (arn:aws:service:region:account:resource)")
    return Arn(partition=parts[1], service=parts[2], region=parts[3], account=parts[4], resource=parts[5])
