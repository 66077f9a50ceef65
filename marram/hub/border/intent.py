"""What a request is meant for, before anything of it is proven: its query, its service, in whose words to refuse it.

Not here: which operation it is (plans.py), who asks (chain.py).
"""

import re
from collections.abc import Iterable, Mapping
from typing import Final

from marram.core.errors import Denied, Invalid, Unsupported
from marram.hub.border import plans
from marram.hub.border.awsjson import Request
from marram.hub.border.plans import Plan

MAX_PARAMETERS: Final = 200

_CREDENTIAL_END = re.compile(r"[,&]")
_S3_SCOPE = re.compile(r"(?:/|%2F)s3(?:/|%2F)aws4_request", re.IGNORECASE)


AUTHORIZER: Final = ("x-amz-customauthorizer-name", "x-amz-customauthorizer-signature")


def refuse_authorizer(headers: Mapping[str, str], query: Iterable[tuple[str, str]]) -> None:
    """Raises Unsupported when a device asks to be judged by a custom authorizer."""
    asked = next((name for name in AUTHORIZER if name in headers), None)
    asked = asked or next((name for name, _ in query if name.lower() in AUTHORIZER), None)
    if asked is not None:
        raise Unsupported(
            f"{asked}: custom authorizers need functions, which Marram does not have; use a certificate or sign the request"
        )


def refuse_other_origin(headers: Mapping[str, str]) -> None:
    """Raises Denied for a page of another host. A browser shows a client certificate to whatever a page calls, as it does a
    cookie: with one alone, a page could speak as whoever looks at it. A signature it cannot make."""
    origin = headers.get("origin")
    if origin is None:
        return
    if not origin.startswith("https://") or _place(origin.removeprefix("https://")) != _place(headers.get("host", "")):
        raise Denied(f"a page of {origin[:200]} may not use a client certificate here")


def _place(host: str) -> str:
    return host.lower().removesuffix(":443")


def pairs(text: str) -> list[tuple[str, str]]:
    """Decoded query parameters in their order; "+" is itself, as in signatures."""
    if not text:
        return []
    items = text.split("&")
    if len(items) > MAX_PARAMETERS:
        raise Invalid(f"the query has over {MAX_PARAMETERS} parameters")
    out: list[tuple[str, str]] = []
    for item in items:
        if item:
            name, _, value = item.partition("=")
            name, value = plans.decode(name), plans.decode(value)
            if "\0" in value:
                raise Invalid("a query parameter holds a NUL")
            out.append((name, value))
    return out


def joined(pairs: list[tuple[str, str]]) -> dict[str, str]:
    """By name, without the signature's own; repeated values (lists) joined by NUL, which no value holds."""
    out: dict[str, str] = {}
    for name, value in pairs:
        if not name.startswith("X-Amz-"):
            out[name] = f"{out[name]}\0{value}" if name in out else value
    return out


def is_for_s3(stated: str) -> bool:
    """By the scope in an Authorization header or a query. Looked at once from left to right: nobody has proven who he is yet."""
    scope = _CREDENTIAL_END.split(stated.partition("Credential=")[2], maxsplit=1)[0]
    return _S3_SCOPE.search(scope, max(0, len(scope) - 24)) is not None


def guess_service(request: Request, path: str, query: Mapping[str, str]) -> str:
    """The service that a request is meant for, by its credential scope or else by its form. Nothing is proven by it."""
    stated = request.headers.get("authorization", "") or query.get("X-Amz-Credential", "")
    scope = stated.partition("Credential=")[2] or stated
    parts = scope.partition(",")[0].rsplit("/", 4)
    if len(parts) == 5 and parts[3] in plans.BY_SIGNING_NAME:
        return plans.BY_SIGNING_NAME[parts[3]]
    if request.headers.get("x-amz-target", "").startswith("SageMaker."):
        return "sagemaker"
    if "x-amz-content-sha256" in request.headers and not path.startswith("/marram/"):
        return "s3"
    if request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded") or "Action" in query:
        return "sts"
    if path.startswith("/marram/"):
        return "marram"
    if path.startswith("/greengrass/"):
        return "greengrassv2"
    return "iot-data" if path.startswith("/topics/") else "iot"


def unknown_text(plan: Plan, request: Request, path: str, form: Mapping[str, str]) -> str:
    if plan.protocol == "query":
        asked = f"Action {form.get('Action', '')[:100]!r}"
    elif plan.protocol == "json":
        asked = f"X-Amz-Target {request.headers.get('x-amz-target', '')[:100]!r}"
    else:
        asked = f"{request.method} {path[:200]}"
    return f"{asked} is not an operation of {plan.service}"
