"""The doors: bytes in, operations called, bytes out. Authenticate, authorise, validate and map errors, in one list each."""
