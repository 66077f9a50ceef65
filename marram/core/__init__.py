"""What a specification says, pure: no I/O, no clock, no randomness, no logging. Shared by hub, edge and tools."""
