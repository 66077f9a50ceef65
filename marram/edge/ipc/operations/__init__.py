"""One file for each family of operations; each registers itself with `@ipc`."""
