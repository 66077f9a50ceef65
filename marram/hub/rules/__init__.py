"""Rules: SQL over the journal's messages, and what is done with the results. The language is marram.core.sql."""

from marram.hub.slice import Slice

SLICE = Slice(name="rules", package="marram.hub.rules", needs=("identity", "broker", "timeseries"))
