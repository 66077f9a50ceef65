"""Messages for the hub, kept on disk until it has them: store and forward, in order, without loss."""
