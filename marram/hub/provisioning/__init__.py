"""How devices come in: provisioning templates, claims, first connections by a registered CA, bulk registration."""

from marram.hub.slice import Slice

SLICE = Slice(
    name="provisioning", package="marram.hub.provisioning", needs=("identity", "registry", "broker", "objects")
)
