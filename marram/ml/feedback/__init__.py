"""Feedback: crops that devices thought worth a person's time."""

from marram.hub.slice import Slice

SLICE = Slice(name="feedback", package="marram.ml.feedback", needs=("objects", "broker"))
