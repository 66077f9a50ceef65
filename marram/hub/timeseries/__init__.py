"""History: points as journal records, the newest in memory, the rest in Parquet files under DIR/ts. DESIGN 3, Time series."""

from marram.hub.slice import Slice

SLICE = Slice(name="timeseries", package="marram.hub.timeseries", needs=("broker",))
