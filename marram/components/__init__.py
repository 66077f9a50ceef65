"""Processes that run on a device under the nucleus. They stand alone: no component imports another, the hub or the edge."""
