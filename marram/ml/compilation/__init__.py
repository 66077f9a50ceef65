"""Compilation: every candidate of a trained model measured, the fastest that passes the gate kept, the losers reported."""

from marram.hub.slice import Slice

SLICE = Slice(name="compilation", package="marram.ml.compilation", needs=("objects", "datasets", "training"))
