"""Inference on a device: source -> prepare -> engine -> decide -> sample for feedback. One process, a few threads."""
