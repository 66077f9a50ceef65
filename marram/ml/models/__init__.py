"""Model versions: what was trained, compiled and judged; signed bundles that devices run."""

from marram.hub.slice import Slice

SLICE = Slice(
    name="models", package="marram.ml.models", needs=("objects", "datasets", "training", "compilation", "greengrass")
)
