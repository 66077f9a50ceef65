"""Local messages: one hub of topics for each of the two local spaces (IPC pub/sub, local MQTT)."""
