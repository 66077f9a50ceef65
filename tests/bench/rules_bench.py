"""One message through a rule, against the bare JSON decode of its payload in the same run. About 8 s."""

import json
import statistics
import time
from collections.abc import Callable

from marram.core import codec, topic
from marram.core.sql import evaluate, parser
from marram.core.sql.functions import Message

PAYLOAD = b'{"core":"edge-1","frame":"f-000123","label":7,"confidence":0.93,"t":1750000000123,"box":[12,40,28,28]}'
MATCHING = (
    "SELECT frame, label, confidence, topic(2) AS core FROM 'line/+/readings' WHERE confidence > 0.5 AND label <> 3"
)
OTHER = "SELECT frame, label FROM 'line/+/readings' WHERE confidence < 0.5 AND label <> 3"
TOPIC = "line/edge-1/readings"
CALLS, ROUNDS = 20_000, 7


def judge(select: evaluate.Select) -> Callable[[], object]:
    def once() -> object:
        message = Message(TOPIC, 1, codec.loads(PAYLOAD))
        return codec.dumps(select.row(message)) if select.where(message) else None

    return once


def among_1000() -> Callable[[], object]:
    """1,000 rules on other topics and one that matches: found through the trie, as the engine does on a new topic."""
    trie: topic.Trie[int, evaluate.Select] = topic.Trie()
    for n in range(1_000):
        trie.put(f"line/{n}/state", n, evaluate.compile_statement(parser.statement(f"SELECT * FROM 'line/{n}/state'")))
    trie.put("line/+/readings", -1, evaluate.compile_statement(parser.statement(MATCHING)))

    def once() -> object:
        message = Message(TOPIC, 1, codec.loads(PAYLOAD))
        return [codec.dumps(select.row(message)) for _, select in trie.match(TOPIC) if select.where(message)]

    return once


def main() -> dict[str, object]:
    cases: dict[str, Callable[[], object]] = {
        "bare JSON decode": lambda: json.loads(PAYLOAD),
        "decode, one rule that matches": judge(evaluate.compile_statement(parser.statement(MATCHING))),
        "decode, one rule that does not": judge(evaluate.compile_statement(parser.statement(OTHER))),
        "1,001 rules, one of the topic": among_1000(),
    }
    times: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(ROUNDS):  # in turn, so that a slow moment of the machine hits all
        for name, case in cases.items():
            began = time.process_time()
            for _ in range(CALLS):
                case()
            times[name].append((time.process_time() - began) / CALLS * 1e6)
    medians = {name: statistics.median(values) for name, values in times.items()}
    bare = medians["bare JSON decode"]
    return {f"{name}, us": round(value, 2) for name, value in medians.items()} | {
        "ratio match (floor 0.33)": round(bare / medians["decode, one rule that matches"], 3),
        "ratio no match (floor 0.55)": round(bare / medians["decode, one rule that does not"], 3),
        "ratio 1,001 rules (floor 0.20)": round(bare / medians["1,001 rules, one of the topic"], 3),
    }


if __name__ == "__main__":
    print(json.dumps(main(), indent=1))
