"""Composition roots of the server: which slices run in this process, in which order, on which engines."""
