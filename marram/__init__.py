"""Marram: a self-hosted IoT hub and edge runtime with a learning loop. See docs/architecture.md for the way of a message."""

from typing import Final

VERSION: Final = "0.1.0"
