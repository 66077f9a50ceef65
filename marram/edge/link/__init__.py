"""The link to the hub: MQTT for messages and jobs, HTTPS for recipes and artifacts, and the count of every byte of both."""
