"""Shadows of this core and of its devices: kept here, used offline, brought together with the hub's when there is a link."""
