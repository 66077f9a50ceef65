"""iot-data operations of the slice, by resource."""
