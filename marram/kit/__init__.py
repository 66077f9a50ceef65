"""The one way to touch the machine: disk, clock, network, processes, logs, counters. A second way of the same kind is refused."""
