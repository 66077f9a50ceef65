"""What cores report by MQTT."""

from marram.core.errors import Invalid
from marram.hub.greengrass.service import Greengrass
from marram.hub.slice import TopicMessage, topic
from marram.kit.log import logger

log = logger(__name__)


@topic("$aws/things/{thing}/greengrassv2/health/json")
async def fleet_status(service: Greengrass, message: TopicMessage) -> None:
    try:
        await service.devices.report(message.params["thing"], message.payload)
    except Invalid as error:  # nobody waits for an answer on this topic
        log.warning("fleet_status.refused", thing=message.params["thing"], why=error.message)
