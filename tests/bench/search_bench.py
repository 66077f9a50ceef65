"""Searching many things: two-term queries, aggregations, a dynamic group, building the index, registration under it.

A real hub on a real disk, asked over its API port. 30,000 things, a million with MARRAM_FULL=1; `make test` takes a small part.
"""

import importlib.util
import random
import sys
import tempfile
import time
from pathlib import Path
from types import ModuleType
from typing import Any, Final

CALLS: Final = 200
# {site}, {line}, {serial}, {head}: by chance. Each is of two terms; the last finds nothing, so it looks at all there is.
QUERIES: Final = {
    "two_words": "attributes.site:site-{site} AND attributes.firmware:1.3.0",
    "two_bare_words": "site-{site} 1.3.0",
    "word_and_prefix": "thingTypeName:pump AND thingName:pump-{head}*",
    "word_and_range": 'thingTypeName:pump AND attributes.serial:["sn{serial}" TO "sn{serial}z"]',
    "one_thing": "attributes.serial:sn{serial} AND thingTypeName:pump",
    "word_and_not": "thingGroupNames:line-{line} NOT attributes.site:site-{site}",
    "nothing": "attributes.site:site-{site} AND thingGroupNames:line-{other}",
}


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parent / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


registry = _load("registry_bench")


def main() -> dict[str, Any]:
    return measure(registry.size())


def measure(things: int, calls: int = CALLS) -> dict[str, Any]:
    found: dict[str, Any] = {"things": things}
    with tempfile.TemporaryDirectory(prefix="search-bench-") as name:
        folder = Path(name) / "hub"
        with registry.hub(folder) as api:
            api.call("POST", "/thing-types/pump", body={})
            for line in range(registry.LINES):
                api.call("POST", f"/thing-groups/line-{line}", body={})
            half = things // 2
            registry.say(f"registering {things:,} things, the index built for half, kept for half")
            registry.register(api, 0, half)
            began = time.perf_counter()
            api.call("POST", "/indexing/config", body={"thingIndexingConfiguration": {"thingIndexingMode": "REGISTRY"}})
            while api.call("GET", "/indices/AWS_Things")["indexStatus"] != "ACTIVE":
                time.sleep(0.02)
            found["built_per_s"] = round(half / (time.perf_counter() - began))
            began, spent = time.perf_counter(), api.cpu_s()
            registry.register(api, half, things)
            found["registered_per_s"] = round((things - half) / (time.perf_counter() - began))
            found["registered_per_s_core"] = round((things - half) / (api.cpu_s() - spent))
            registry.say("searching")
            for query, text in QUERIES.items():
                found[query] = asked(api, text, things, calls)
            found["buckets_s"] = buckets(api)
            found["dynamic_group_of_a_tenth_s"] = dynamic(api, things)
        size = sum(each.stat().st_size for each in folder.glob("hub.db*"))
        found["bytes_a_thing"] = round(size / things)
    return found


def asked(api: Any, text: str, things: int, calls: int) -> dict[str, float]:
    """Milliseconds of SearchIndex with the values of `text` by chance: of the best of three rounds."""
    chance = random.Random(text)
    rounds: list[tuple[float, float]] = []
    for _ in range(3):
        spent: list[float] = []
        for _ in range(calls):
            line = chance.randrange(registry.LINES)
            site = chance.randrange(registry.SITES)
            serial = f"{chance.randrange(things):010d}"
            other = (site + 1) % registry.LINES  # the line of a thing is its site's last digit
            query = text.format(line=line, site=site, serial=serial, head=serial[-7:-3], other=other)
            began = time.perf_counter()
            answer = api.call("POST", "/indices/search", body={"queryString": query})
            spent.append(time.perf_counter() - began)
            assert bool(answer["things"]) == ("{other}" not in text), query
        spent.sort()
        rounds.append((1000 * spent[calls * 99 // 100], 1000 * spent[calls // 2]))
    p99, p50 = min(rounds)
    return {"p50_ms": round(p50, 2), "p99_ms": round(p99, 2)}


def buckets(api: Any) -> float:
    config = {"thingIndexingMode": "REGISTRY", "customFields": [{"name": "attributes.site", "type": "String"}]}
    api.call("POST", "/indexing/config", body={"thingIndexingConfiguration": config})
    began = time.perf_counter()
    body = {
        "queryString": "attributes.firmware:1.3.0", "aggregationField": "attributes.site",
        "bucketsAggregationType": {"termsAggregation": {"maxBuckets": 100}},
    }  # fmt: skip
    answer = api.call("POST", "/indices/buckets", body=body)
    assert len(answer["buckets"]) == registry.SITES
    return round(time.perf_counter() - began, 2)


def dynamic(api: Any, things: int) -> float:
    """Seconds from the creation of a group until all of its members, a tenth of all things, are in it."""
    began = time.perf_counter()
    api.call("POST", "/dynamic-thing-groups/tenth", body={"queryString": "thingGroupNames:line-3"})
    while api.call("GET", "/thing-groups/tenth")["status"] != "ACTIVE":
        time.sleep(0.02)
    took = time.perf_counter() - began
    assert api.call("GET", "/thing-groups/tenth/things", query={"maxResults": "1"})["things"] == [registry.named(3)]
    return round(took, 2)
