"""Things, thing types and static thing groups: what devices there are, and which certificates are theirs."""

from marram.hub.slice import Slice

SLICE = Slice(name="registry", package="marram.hub.registry", needs=("identity",))
