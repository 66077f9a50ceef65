"""What devices send: one item a message, QoS 1, at least once. An item that is not one is dropped and counted in the log."""

from marram.core.errors import Invalid
from marram.hub.slice import TopicMessage, topic
from marram.kit.log import logger
from marram.ml.feedback.service import Feedback

log = logger(__name__)


@topic("$marram/things/{thing}/feedback")
async def receive(service: Feedback, message: TopicMessage) -> None:
    try:
        await service.receive(message.params["thing"], message.payload)
    except Invalid as error:  # nobody waits for an answer on this topic
        log.warning("feedback.refused", thing=message.params["thing"], why=error.message)
