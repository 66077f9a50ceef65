"""Training jobs: SageMaker's operations and its contract for algorithms, run in worker processes."""

from marram.hub.slice import Slice

SLICE = Slice(name="training", package="marram.ml.training", needs=("objects", "datasets"))
