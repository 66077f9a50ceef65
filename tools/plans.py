"""Compile botocore's service models to the small plans that the API door loads, and our own operations to a model that
boto3 loads. Runs at build time (`make setup`, the wheel's build hook): botocore is never imported by the hub.

A plan is the model without documentation and client-side hints, its patterns translated from Java's dialect to Python's.
Every operation keeps its name, also those that Marram does not serve: "not supported here" is not "unknown".
Not here: what a plan means (marram/hub/border/plans.py) and which operations are served (the slices).
"""

import hashlib
import json
import re
import sys
import unicodedata
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent
SERVICES: Final = ("iot", "iot-data", "iot-jobs-data", "greengrassv2", "s3", "sts", "iam", "sagemaker")
OWN: Final = "marram"
OWN_VERSION: Final = "2026-11-01"
FORMAT: Final = 1

# What the server reads; all the rest of a model is prose, client configuration or endpoint rules.
_SHAPE_KEYS: Final = (
    "type", "required", "min", "max", "pattern", "enum", "payload", "flattened", "timestampFormat", "union", "document",
    "locationName", "xmlNamespace", "wrapper", "streaming", "eventstream", "error", "exception", "fault",
)  # fmt: skip
_REF_KEYS: Final = (
    "shape", "location", "locationName", "flattened", "timestampFormat", "xmlAttribute", "xmlNamespace", "streaming",
    "jsonvalue", "queryName", "idempotencyToken",
)  # fmt: skip

# ASCII meanings: Java's \p{Graph} and friends are ASCII unless a flag says otherwise.
_POSIX: Final[Mapping[str, str]] = {
    "Lower": "a-z", "Upper": "A-Z", "Alpha": "A-Za-z", "Digit": "0-9", "Alnum": "A-Za-z0-9", "ASCII": r"\x00-\x7f",
    "Punct": r"!-/:-@\[-`{-~", "Graph": "!-~", "Print": " -~", "Blank": r" \t", "Cntrl": r"\x00-\x1f\x7f",
    "XDigit": "0-9a-fA-F", "Space": r" \t\n\x0b\f\r",
}  # fmt: skip


class PlanError(Exception):
    """The build stops: a model cannot be compiled as it stands."""


def main(argv: list[str] | None = None) -> int:
    force = "--force" in (sys.argv[1:] if argv is None else argv)
    try:
        changed = build(ROOT, force=force)
    except PlanError as error:
        print(f"plans: {error}", file=sys.stderr)
        return 1
    print("plans: " + (f"wrote {', '.join(changed)}" if changed else "up to date"))
    return 0


def build(root: Path, *, force: bool = False) -> list[str]:
    """Write what is missing or out of date below `root`; returns the names of the services written."""
    out = root / "marram/hub/border/plans"
    fragments = sorted([*root.glob("marram/hub/*/model.json"), *root.glob("marram/ml/*/model.json")])
    compiler = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]
    botocore_version = metadata.version("botocore")
    changed: list[str] = []
    for service in SERVICES:
        stamp = f"{FORMAT} {compiler} botocore {botocore_version}"
        if force or _stamp(out / f"{service}.json") != stamp:
            _write(out / f"{service}.json", compile_model(service, _botocore_model(service)), stamp)
            changed.append(service)
    digest = hashlib.sha256(b"".join(str(p.parent.name).encode() + p.read_bytes() for p in fragments)).hexdigest()[:16]
    stamp = f"{FORMAT} {compiler} fragments {digest}"
    model_path = root / "marram/hub/border/models" / OWN / OWN_VERSION / "service-2.json"
    if force or _stamp(out / f"{OWN}.json") != stamp or not model_path.exists():
        model, paths = merge({p.parent.name: json.loads(p.read_bytes()) for p in fragments})
        model_path.parent.mkdir(parents=True, exist_ok=True)
        _replace(model_path, json.dumps(model, indent=1, sort_keys=True).encode())
        plan = compile_model(OWN, model)
        # The registry calls them "<slice>/<Operation>"; boto3 only knows flat names.
        plan["operations"] = {paths[name]: operation for name, operation in plan["operations"].items()}
        _write(out / f"{OWN}.json", plan, stamp)
        changed.append(OWN)
    return changed


def merge(fragments: Mapping[str, Mapping[str, Any]]) -> tuple[dict[str, Any], dict[str, str]]:
    """One boto3 model out of the slices' fragments, and {flat operation name: "<slice>/<Operation>"}.

    A shape name used by two slices with different content is renamed `<Slice><Name>` in the later one; two operations of one
    name are refused, since their policy action would be one.
    """
    operations: dict[str, Any] = {}
    shapes: dict[str, Any] = {}
    paths: dict[str, str] = {}
    for slice_name, fragment in sorted(fragments.items(), key=lambda item: (item[0] != "border", item[0])):
        own = {name: shape for name, shape in fragment.get("shapes", {}).items() if "type" in shape}
        renamed = {
            name: slice_name.title().replace("_", "") + name
            for name in own
            if name in shapes and shapes[name] != own[name]
        }
        shapes.update({renamed.get(name, name): _renamed(shape, renamed) for name, shape in own.items()})
        for key, operation in fragment.get("operations", {}).items():
            name = key.rpartition("/")[2]
            if name in operations:
                raise PlanError(f"operation {name} is declared by {paths[name]} and by {slice_name}/{name}")
            paths[name] = f"{slice_name}/{name}"
            http = {"method": "POST", "requestUri": f"/marram/{slice_name}/{name}"} | operation.get("http", {})
            operations[name] = _renamed(operation, renamed) | {"name": name, "http": http}
    names = set(shapes)
    for name, operation in operations.items():
        for ref in (operation.get("input"), operation.get("output"), *operation.get("errors", ())):
            if ref is not None and ref["shape"] not in names:
                raise PlanError(f"{paths[name]}: shape {ref['shape']} is not declared in its model.json")
    return {
        "version": "2.0",
        "metadata": {
            "apiVersion": OWN_VERSION, "endpointPrefix": OWN, "protocol": "rest-json", "protocols": ["rest-json"],
            "serviceFullName": "Marram", "serviceId": "Marram", "signatureVersion": "v4", "signingName": OWN,
            "uid": f"{OWN}-{OWN_VERSION}", "auth": ["aws.auth#sigv4"],
        },
        "operations": operations,
        "shapes": shapes,
    }, paths  # fmt: skip


def compile_model(service: str, model: Mapping[str, Any]) -> dict[str, Any]:
    meta = model["metadata"]
    operations = {}
    for name, operation in model["operations"].items():
        http = operation["http"]
        operations[name] = _without_none(
            {
                "method": http["method"],
                "uri": http["requestUri"],
                "status": http.get("responseCode"),
                "input": operation.get("input", {}).get("shape"),
                "input_name": operation.get("input", {}).get("locationName"),
                "input_namespace": operation.get("input", {}).get("xmlNamespace"),
                "output": operation.get("output", {}).get("shape"),
                "result_wrapper": operation.get("output", {}).get("resultWrapper"),
                "errors": [error["shape"] for error in operation.get("errors", [])] or None,
            }
        )
    return {
        "format": FORMAT,
        "service": service,
        "protocol": meta["protocol"],
        "json_version": meta.get("jsonVersion", "1.1"),
        "signing_name": meta.get("signingName", meta["endpointPrefix"]),
        "target_prefix": meta.get("targetPrefix"),
        "api_version": meta["apiVersion"],
        "xml_namespace": meta.get("xmlNamespace"),
        "operations": operations,
        "shapes": {name: _shape(service, name, shape) for name, shape in model["shapes"].items()},
    }


def translate(pattern: str) -> str:
    r"""Java's regular expression as Python's. Raises PlanError when the result does not compile.

    Handled: \p{..} classes, \u surrogate pairs, a bounded anchor ("$" with a count, in SageMaker's tag keys), characters that
    Python reserves inside a class. The caller matches whole values, with re.ASCII.
    """
    text = pattern.replace(r"\uD800\uDC00-\uDBFF\uDFFF", r"\U00010000-\U0010ffff")
    text = re.sub(r"\$\{\d+,\d+\}", "$", text)
    out: list[str] = []
    at, in_class = 0, False
    while at < len(text):
        char = text[at]
        if char == "\\":
            if named := re.match(r"\\([pP])\{(\w+)\}", text[at:]):
                members = _property(named[2])
                if in_class and named[1] == "P":
                    raise PlanError(f"negated property inside a class: {pattern}")
                out.append(members if in_class else f"[{'^' if named[1] == 'P' else ''}{members}]")
                at += len(named[0])
                continue
            out.append(text[at : at + 2])
            at += 2
            continue
        if in_class:
            if char == "]":
                in_class = False
            elif char in "[&~|":
                char = "\\" + char
        elif char == "[":
            in_class = True
            if text[at + 1 : at + 2] == "^":
                char, at = "[^", at + 1
        out.append(char)
        at += 1
    result = "".join(out)
    try:
        re.compile(result, re.ASCII)
    except re.error as error:
        raise PlanError(f"pattern {pattern!r} cannot be translated: {error}") from error
    return result


@cache
def _property(name: str) -> str:
    if name in _POSIX:
        return _POSIX[name]
    ranges: list[list[int]] = []
    for point in range(sys.maxunicode + 1):
        if unicodedata.category(chr(point)).startswith(name):
            if ranges and ranges[-1][1] == point - 1:
                ranges[-1][1] = point
            else:
                ranges.append([point, point])
    if not ranges:
        raise PlanError(f"unknown character property {name}")
    return "".join(f"{_escape(low)}-{_escape(high)}" if low < high else _escape(low) for low, high in ranges)


def _escape(point: int) -> str:
    return f"\\U{point:08x}" if point > 0xFFFF else f"\\u{point:04x}"


def _shape(service: str, name: str, shape: Mapping[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {key: shape[key] for key in _SHAPE_KEYS if key in shape}
    if "pattern" in kept:
        try:
            kept["pattern"] = translate(kept["pattern"])
        except PlanError as error:
            raise PlanError(f"{service}.{name}: {error}") from error
    if "members" in shape:
        kept["members"] = {key: _ref(ref) for key, ref in shape["members"].items()}
    for part in ("member", "key", "value"):
        if part in shape:
            kept[part] = _ref(shape[part])
    return kept


def _ref(ref: Mapping[str, Any]) -> dict[str, Any]:
    return {key: ref[key] for key in _REF_KEYS if key in ref}


def _renamed(node: Any, names: Mapping[str, str]) -> Any:
    if isinstance(node, dict):
        return {
            k: names.get(v, v) if k == "shape" and isinstance(v, str) else _renamed(v, names) for k, v in node.items()
        }
    return [_renamed(item, names) for item in node] if isinstance(node, list) else node


def _botocore_model(service: str) -> dict[str, Any]:
    from botocore.loaders import Loader  # a build dependency: only when a plan is stale

    model: dict[str, Any] = Loader().load_service_model(service, "service-2")
    return model


def _without_none(value: dict[str, Any]) -> dict[str, Any]:
    return {key: item for key, item in value.items() if item is not None}


def _stamp(path: Path) -> str:
    try:
        with path.open("rb") as file:
            found = re.match(rb'\{"stamp":"([^"]*)"', file.read(300))
    except OSError:
        return ""
    return found[1].decode() if found else ""


def _write(path: Path, plan: dict[str, Any], stamp: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    _replace(path, json.dumps({"stamp": stamp} | plan, separators=(",", ":")).encode())


def _replace(path: Path, data: bytes) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(data)
    temporary.replace(path)


if __name__ == "__main__":
    sys.exit(main())
