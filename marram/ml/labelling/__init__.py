"""Labelling: SageMaker's labeling jobs over a queue of our own; people answer by operations."""

from marram.hub.slice import Slice

SLICE = Slice(name="labelling", package="marram.ml.labelling", needs=("objects",))
