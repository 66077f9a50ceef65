"""Greengrass on the hub: components, deployments to things and groups, what cores report, and their data plane."""

from marram.hub.slice import Slice

SLICE = Slice(name="greengrass", package="marram.hub.greengrass", needs=("identity", "registry", "objects", "jobs"))
