"""Operations of provisioning, by resource. Importing this declares them all."""

from marram.hub.provisioning.api import authorities, registration, templates

__all__ = ["authorities", "registration", "templates"]
