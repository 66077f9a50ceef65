"""The audit log: every administrative act, who, from where, what and with what result, in a chain that shows an edit."""

from marram.hub.slice import Slice

SLICE = Slice(name="audit", package="marram.hub.audit")
