"""Dataset versions: immutable, addressed by the hash of their manifest."""

from marram.hub.slice import Slice

SLICE = Slice(name="datasets", package="marram.ml.datasets", needs=("objects",))
