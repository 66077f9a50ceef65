"""Presigned URLs for job documents: signed by a key of the hub, as long as the job's role exists and trusts the service."""

from typing import Protocol

from marram.core import sigv4
from marram.hub.objects.service import Objects


class Roles(Protocol):
    """Identity's side. Raises Invalid or Denied."""

    def check_role(
        self, role_arn: str, service: str = ..., action: str | None = ..., resource: str | None = ...
    ) -> None: ...


class RoleSigner:
    def __init__(self, roles: Roles, objects: Objects, held: sigv4.Credentials) -> None:
        """held: of a key of the hub that may read every object."""
        self._roles, self._objects, self._held = roles, objects, held

    def check(self, role: str, bucket: str, key: str) -> None:
        self._roles.check_role(role, action="s3:GetObject", resource=f"arn:aws:s3:::{bucket}/{key}")

    def url(self, role: str, bucket: str, key: str, expires_s: int) -> str:
        self.check(role, bucket, key)
        return self._objects.presign(bucket, key, expires_s, signer=self)

    def credentials(self) -> sigv4.Credentials:
        return self._held
