"""The local MQTT broker of a core, for client devices: mutual TLS, AWS's device policies, and a bridge; all of it offline too."""
