"""The nucleus side: runs components on a device, hub or no hub. Standard library and YAML only."""
