"""Simulated devices in a process of their own: they speak MQTT and HTTPS with the hub, and nothing else."""
