"""What shadows do by the clock: tell of wishes that are not reached, forget versions of deleted shadows, once time old ones."""

import asyncio
from typing import Final

from marram.hub.shadow.service import Shadows

LOOK_S: Final = 5.0
GRAVES_EVERY: Final = 720  # looks: an hour


async def run(shadows: Shadows) -> None:
    """Returns when cancelled."""
    while await shadows.time_old_ones():
        pass
    looks = 0
    while True:
        while await shadows.tell_unreached():
            pass
        if looks % GRAVES_EVERY == 0:
            while await shadows.forget_graves():
                pass
        looks += 1
        await asyncio.sleep(LOOK_S)
