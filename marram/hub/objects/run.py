"""Background work of objects: uploads that nobody finished are dropped after a day (reliability T33)."""

from marram.hub.objects.service import Objects
from marram.kit.log import logger

log = logger(__name__)

EVERY_S = 3600.0


async def expire(service: Objects) -> None:
    """One round; call it every EVERY_S."""
    dropped = await service.expire_uploads()
    if dropped:
        log.info("uploads.expired", count=dropped)
