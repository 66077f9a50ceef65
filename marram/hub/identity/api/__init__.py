"""Operations of identity, by resource. Importing this declares them all."""

from marram.hub.identity.api import certificates, explaining, joining, keys, policies, sessions

__all__ = ["certificates", "explaining", "joining", "keys", "policies", "sessions"]
