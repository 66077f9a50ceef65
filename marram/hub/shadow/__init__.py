"""Device shadows, classic and named: the algebra is marram.core.shadow; here are storage, topics and the API."""

from marram.hub.slice import Slice

SLICE = Slice(name="shadow", package="marram.hub.shadow", needs=("identity", "registry", "broker"))
