"""Operations of identity, by resource. Importing this declares them all."""

from marram.hub.identity.api import (
    certificates,
    explaining,
    iam_policies,
    iam_roles,
    iam_users,
    joining,
    keys,
    policies,
    role_aliases,
    sessions,
    sts,
)

__all__ = [
    "certificates",
    "explaining",
    "iam_policies",
    "iam_roles",
    "iam_users",
    "joining",
    "keys",
    "policies",
    "role_aliases",
    "sessions",
    "sts",
]
