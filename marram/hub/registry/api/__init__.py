"""iot operations of the slice, by resource."""
