"""IoT jobs: one instruction to many things, and each thing's run of it, kept and reported over reserved topics."""

from marram.hub.slice import Slice

SLICE = Slice(name="jobs", package="marram.hub.jobs", needs=("identity", "registry", "broker"))
