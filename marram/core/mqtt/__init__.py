"""MQTT 3.1.1 and 5, without input or output: packets, their bytes, the state of one connection, both sides."""
