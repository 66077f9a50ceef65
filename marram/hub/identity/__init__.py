"""Who is it and what may it do: certificates, access keys, policies, their attachments, joining of edge cores."""

from marram.hub.slice import Slice

SLICE = Slice(name="identity", package="marram.hub.identity")
