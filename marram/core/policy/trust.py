"""Trust policies of roles: who may assume the role. Pure.

The grammar is that of other policies with `Principal` in the place of `Resource`; each statement is read as a policy of
its own over the resource "*", so that conditions, variables and the order deny, allow, nothing are the evaluator's.
Users and roles are known by their ids, which the writer of the document looks up: one who is made again under the name of
a deleted one is somebody else.
Sources: IAM user guide, "AWS JSON policy elements: Principal", "Policies and permissions: same-account requests".
Not here: federated principals, other accounts (a hub is one account), NotPrincipal.
"""

import re
from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Final, Literal

from marram.core import codec
from marram.core.codec import JsonObject, JsonValue
from marram.core.errors import Invalid
from marram.core.policy import evaluate
from marram.core.policy.documents import CURRENT, OLDER, SPACE, Effect, MalformedPolicy
from marram.core.policy.evaluate import CompiledPolicy
from marram.core.policy.variables import Values

LIMIT: Final = 2048  # characters, white space not counted
ASSUME: Final = "sts:AssumeRole"
# What a trust policy may be about. The last two come with tools' documents; there are no session tags to allow.
ACTIONS: Final = ("sts:assumerole", "sts:tagsession", "sts:setsourceidentity")
# Who can be given a role here: what acts for others in this hub.
SERVICES: Final = (
    "iot.amazonaws.com", "credentials.iot.amazonaws.com", "greengrass.amazonaws.com", "sagemaker.amazonaws.com",
)  # fmt: skip
ANYBODY: Final = "*"
_NAMED: Final = re.compile(r"arn:aws:(iam|sts)::(\d{12}):(user|role|assumed-role)/([!-)+-~]+)")

Standing = Literal["named", "delegated"]


@dataclass(frozen=True, slots=True)
class _Row:
    principals: frozenset[str]
    effect: Effect
    policy: CompiledPolicy


@dataclass(frozen=True, slots=True)
class Trust:
    text: str
    rows: tuple[_Row, ...]

    @property
    def named(self) -> frozenset[str]:
        """The ARNs of users, roles and sessions in it."""
        return frozenset(name for row in self.rows for name in row.principals if _NAMED.fullmatch(name))

    def judge(
        self, named: Set[str], delegates: Set[str], subject: Values, request: Values, action: str = ASSUME
    ) -> Standing | None:
        """How it lets somebody in who goes by these principals; None when it does not.

        named: what means just them. delegates: what means all of an account, whose own policies then have to allow it too.
        """
        everything = named | delegates
        applying = [row for row in self.rows if row.principals & everything]
        program = evaluate.program(tuple(row.policy for row in applying))
        if not program.may(action, "*", subject, request):
            return None
        direct = tuple(row.policy for row in applying if row.effect is Effect.DENY or row.principals & named)
        return "named" if evaluate.program(direct).may(action, "*", subject, request) else "delegated"


def parse(text: str, account: str) -> Trust:
    """Raises MalformedPolicy, naming the place. That the named users and roles exist is for the caller to check."""
    if len(SPACE.sub("", text)) > LIMIT:
        raise MalformedPolicy(f"trust policy is over {LIMIT} characters (white space not counted)", limit=LIMIT)
    try:
        document = codec.loads_object(text, what="trust policy", max_depth=10)
    except Invalid as exc:
        raise MalformedPolicy(f"trust policy: {exc.message}") from exc
    if unknown := document.keys() - {"Version", "Id", "Statement"}:
        raise MalformedPolicy(f"trust policy: unknown element {min(unknown)!r}")
    version = document.get("Version", OLDER)
    if version not in (CURRENT, OLDER):
        raise MalformedPolicy(f'Version: must be "{CURRENT}", not {version!r}')
    listed = document.get("Statement")
    statements = [listed] if isinstance(listed, dict) else listed
    if not isinstance(statements, list) or not statements:
        raise MalformedPolicy("Statement: must be an object or a list of at least one")
    rows = tuple(_row(index, row, str(version), account) for index, row in enumerate(statements))
    sids = [row.policy.document.statements[0].sid for row in rows]
    if twice := {sid for sid in sids if sid and sids.count(sid) > 1}:
        raise MalformedPolicy(f"Statement: Sid {min(twice)!r} is used twice")
    return Trust(text=text, rows=rows)


def _row(index: int, row: JsonValue, version: str, account: str) -> _Row:
    where = f"Statement[{index}]"
    if not isinstance(row, dict):
        raise MalformedPolicy(f"{where}: must be an object, not {codec.kind(row)}")
    for name in ("NotPrincipal", "Resource", "NotResource", "NotAction"):
        if name in row:
            raise MalformedPolicy(f"{where}.{name}: not allowed in a trust policy here")
    if "Principal" not in row:
        raise MalformedPolicy(f"{where}: needs Principal")
    principals = _principals(row["Principal"], f"{where}.Principal", account)
    rest: JsonObject = {name: value for name, value in row.items() if name != "Principal"}
    actions = rest.get("Action")
    for action in actions if isinstance(actions, list) else [actions]:
        if isinstance(action, str) and action.lower() not in ACTIONS:
            raise MalformedPolicy(f"{where}.Action: {action!r} is not sts:AssumeRole, which alone can be trusted here")
    alone = codec.dumps({"Version": version, "Statement": [{**rest, "Resource": "*"}]}).decode()
    try:
        policy = evaluate.compile_policy("trust", alone, limit=LIMIT * 2)
    except MalformedPolicy as exc:
        raise MalformedPolicy(exc.message.replace("Statement[0]", where)) from exc
    return _Row(principals, policy.document.statements[0].effect, policy)


def _principals(value: JsonValue, where: str, account: str) -> frozenset[str]:
    if value == ANYBODY:
        return frozenset([ANYBODY])
    if not isinstance(value, dict) or not value:
        raise MalformedPolicy(f'{where}: must be "*" or an object of AWS and Service')
    found: set[str] = set()
    for kind, given in value.items():
        if kind not in ("AWS", "Service"):
            raise MalformedPolicy(f"{where}.{kind}: only AWS and Service principals are known here")
        listed = given if isinstance(given, list) else [given]
        names = [name for name in listed if isinstance(name, str)]
        if not names or len(names) != len(listed):
            raise MalformedPolicy(f"{where}.{kind}: must be a string or a list of strings")
        found |= {_aws(name, where, account) if kind == "AWS" else _service(name, where) for name in names}
    return frozenset(found)


def _aws(name: str, where: str, account: str) -> str:
    if name == ANYBODY:
        return name
    root = root_of(account)
    if name in (account, root):
        return root
    match = _NAMED.fullmatch(name)
    whole = match is not None and (match[1] == "sts") == (match[3] == "assumed-role")
    if match is None or not whole or match[2] != account:
        raise MalformedPolicy(
            f'{where}: invalid principal "AWS":"{name}": must be a user, role or role session of account {account},'
            f" {root}, or *"
        )
    return name


def _service(name: str, where: str) -> str:
    if name not in SERVICES:
        raise MalformedPolicy(f'{where}: invalid principal "Service":"{name}": here are {", ".join(SERVICES)}')
    return name


def root_of(account: str) -> str:
    """The principal that stands for an account."""
    return f"arn:aws:iam::{account}:root"


def resolved(trust: Trust, ids: Mapping[str, str]) -> Trust:
    """With the users, roles and sessions in it by their ids; a session is `<role id>:<session name>`."""
    rows = tuple(
        _Row(frozenset(ids.get(name, name) for name in row.principals), row.effect, row.policy) for row in trust.rows
    )
    return Trust(trust.text, rows)
