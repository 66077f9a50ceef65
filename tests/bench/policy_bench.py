"""Cost of one policy decision, in this process: `main() -> dict`, ns each (median of the rounds, lower is better).

"off" is the call of a function that says yes; what a real policy adds above it is the price of authorisation. The broker
keeps verdicts in its route cache, so these are paid when a topic is met for the first time, and by every API request.
"""

import json
import statistics
import time
from collections.abc import Callable

from marram.core.policy import evaluate

ARN = "arn:aws:iot:eu-west-1:000000000001:"
DEVICE = [
    {"Effect": "Allow", "Action": "iot:Connect", "Resource": f"{ARN}client/${{iot:Connection.Thing.ThingName}}"},
    {
        "Effect": "Allow",
        "Action": ["iot:Publish", "iot:Receive"],
        "Resource": [
            f"{ARN}topic/fleet/${{iot:Connection.Thing.ThingName}}/*",
            f"{ARN}topic/$aws/things/${{iot:Connection.Thing.ThingName}}/*",
        ],
    },
    {"Effect": "Deny", "Action": "iot:Publish", "Resource": f"{ARN}topic/fleet/*/secret"},
]
FIXED = [
    {"Effect": "Allow", "Action": "iot:Publish", "Resource": [f"{ARN}topic/fleet/*", f"{ARN}topic/one"]},
    {"Effect": "Deny", "Action": "iot:Publish", "Resource": f"{ARN}topic/fleet/*/secret"},
]
VALUES = {"iot:Connection.Thing.ThingName": "pump-0042"}


def main() -> dict[str, float]:
    device, fixed = _program(DEVICE), _program(FIXED)
    topics = [f"{ARN}topic/fleet/pump-0042/sensor{n}" for n in range(500)]
    many = [f"{ARN}topic/fleet/pump-{n}/t" for n in range(20_000)]
    results = {
        "off_ns": _ns(lambda: [_yes("iot:Publish", topic, VALUES) for topic in topics], len(topics)),
        "fixed_policy_known_topic_ns": _ns(lambda: [fixed.may("iot:Publish", topic) for topic in topics], len(topics)),
        "fixed_policy_new_topic_ns": _ns(lambda: [fixed.may("iot:Publish", topic) for topic in many], len(many)),
        "thing_policy_ns": _ns(lambda: [device.may("iot:Publish", topic, VALUES) for topic in topics], len(topics)),
        "thing_policy_denied_ns": _ns(
            lambda: [device.may("iot:Publish", f"{ARN}topic/other/{n}", VALUES) for n in range(500)], 500
        ),
    }
    results["compile_document_us"] = _ns(lambda: [_program(DEVICE, name=f"p{n}") for n in range(50)], 50) / 1000
    return {name: round(value, 1) for name, value in results.items()}


def _yes(_action: str, _resource: str, _values: object) -> bool:
    return True


def _program(statements: list[dict[str, object]], name: str = "p") -> evaluate.Program:
    document = json.dumps({"Version": "2012-10-17", "Statement": statements})
    return evaluate.Program([evaluate.compile_policy(name, document)])


def _ns(work: Callable[[], object], count: int, rounds: int = 15) -> float:
    work()
    taken = []
    for _ in range(rounds):
        began = time.process_time_ns()
        work()
        taken.append((time.process_time_ns() - began) / count)
    return statistics.median(taken)


if __name__ == "__main__":
    print(json.dumps(main(), indent=1))
