"""The message broker: subscriptions, sessions, retained messages, wills, presence; what a message meets first."""

from marram.hub.slice import Slice

SLICE = Slice(name="broker", package="marram.hub.broker", needs=("identity", "registry"))
