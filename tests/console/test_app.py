import re
from typing import Any

import pytest

from marram.core.errors import Denied, Invalid, LimitExceeded, Unavailable
from marram.kit.clock import FakeClock

T0 = 1_750_000_000_000
PAGES = ["/", "/status.json", "/metrics"]


def version(number: int, *figures: tuple[float, float], **more: Any) -> dict[str, Any]:
    """As models/ListModelVersions gives it, with more than the page shows."""
    models = [{"accuracy": accuracy, "ece": ece, "finite": True, "interval": [0, 1]} for accuracy, ece in figures]
    return {
        "name": "digits", "version": number, "status": "Approved", "reasons": [], "compilationId": "c", "labels": ["0"],
        "evaluation": {"samples": 300, "models": models}, "published": [], "createdMs": 1, **more,
    }  # fmt: skip


def words(html: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", html))


# who may see


@pytest.mark.parametrize("page", PAGES)
async def test_nothing_is_shown_before_login(browser: Any, hub: Any, page: str) -> None:
    answer = await browser("GET", page)
    assert answer.status == 401
    assert "marram login" in answer.body
    assert (await browser("GET", page, cookie="marram-session=guessed")).status == 401
    assert hub.asked == []


async def test_a_link_works_once_and_its_token_leaves_the_address(browser: Any) -> None:
    answer = await browser("GET", "/login?token=good")
    assert (answer.status, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert "good" not in cookie
    assert (await browser("GET", "/")).status == 200
    again = await browser("GET", "/login?token=good", cookie="")
    assert again.status == 401
    assert "used up" in again.body
    assert "set-cookie" not in again.headers


@pytest.mark.parametrize("target", ["/login", "/login?token=", "/login?token=<script>", "/login?other=good"])
async def test_a_wrong_link_is_refused(browser: Any, target: str) -> None:
    answer = await browser("GET", target)
    assert answer.status == 401
    assert "<script>" not in answer.body
    assert browser.cookies == {}


async def test_a_session_ends_with_logout_and_with_its_time(signed_in: Any, hub: Any, clock: FakeClock) -> None:
    old = dict(signed_in.cookies)
    answer = await signed_in("POST", "/logout", origin="http://127.0.0.1:8080")
    assert (answer.status, answer.headers["location"]) == (303, "/")
    signed_in.cookies = old
    assert (await signed_in("GET", "/")).status == 401
    hub.tokens.add("second")
    await signed_in("GET", "/login?token=second")
    assert (await signed_in("GET", "/")).status == 200
    clock.advance(10 * 60_000 + 1)
    assert (await signed_in("GET", "/")).status == 401


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8080", "127.0.0.1.evil.example:8080", "", "localhost.:8080"]
)
async def test_another_host_name_is_refused(signed_in: Any, hub: Any, host: str) -> None:
    for target in (*PAGES, "/login?token=good", "/static/status.js", "/health"):
        answer = await signed_in("GET", target, host=host)
        assert answer.status == 421
        assert "loopback" in answer.body
    assert hub.asked == []


@pytest.mark.parametrize("host", ["127.0.0.1:8080", "localhost:9", "localhost", "127.0.0.1", "[::1]:8080"])
async def test_loopback_by_any_of_its_names(signed_in: Any, host: str) -> None:
    assert (await signed_in("GET", "/", host=host)).status == 200


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "https://127.0.0.1:1", "null", "http://127.0.0.1:8081", "127.0.0.1:8080"]
)
async def test_another_site_cannot_log_out(signed_in: Any, origin: str) -> None:
    assert (await signed_in("POST", "/logout", origin=origin)).status == 403
    assert (await signed_in("GET", "/")).status == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
async def test_pages_are_read_only(signed_in: Any, hub: Any, method: str) -> None:
    for target in PAGES:
        assert (await signed_in(method, target)).status == 405
    assert hub.asked == []


async def test_every_answer_has_its_protection(signed_in: Any) -> None:
    for target in (*PAGES, "/static/console.css", "/nothing", "/login?token=bad"):
        headers = (await signed_in("GET", target)).headers
        assert "default-src 'self'" in headers["content-security-policy"]
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
        assert headers["referrer-policy"] == "no-referrer"


async def test_pages_hold_no_script_or_style_of_their_own(signed_in: Any) -> None:
    page = (await signed_in("GET", "/")).body
    assert re.findall(r"<script[^>]*>", page) == ['<script src="/static/status.js" defer>']
    assert "<style" not in page
    assert not re.search(r"\son\w+=|style=", page)


async def test_many_logins_push_out_the_oldest(browser: Any, hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("marram.console.app.MAX_SESSIONS", 3)
    cookies = []
    for n in range(4):
        hub.tokens.add(f"t{n}")
        await browser("GET", f"/login?token=t{n}")
        cookies.append(dict(browser.cookies))
    seen = []
    for cookie in cookies:
        browser.cookies = cookie
        seen.append((await browser("GET", "/status.json")).status)
    assert seen == [401, 200, 200, 200]


# what is seen


async def test_an_empty_hub_says_what_to_do(signed_in: Any) -> None:
    text = words((await signed_in("GET", "/")).body)
    assert "marram edge join" in text
    assert "timestream action" in text
    assert "No model yet" in text
    assert (await signed_in("GET", "/status.json")).json() == {
        "cores": [],
        "predictions": [],
        "models": [],
        "missing": [],
    }


async def test_cores_with_their_components(signed_in: Any, hub: Any) -> None:
    hub.answers["coreDevices"] = {
        "coreDevices": [
            {"coreDeviceThingName": "box-1", "status": "HEALTHY", "platform": "linux", "architecture": "amd64"},
            {"coreDeviceThingName": "box-2", "status": "UNHEALTHY"},
        ]
    }
    component = {"componentName": "reader", "componentVersion": "2.0.0", "lifecycleState": "RUNNING"}
    hub.answers["coreDevices/box-1/installedComponents"] = {"installedComponents": [component]}
    broken = component | {"lifecycleState": "BROKEN"}
    hub.answers["coreDevices/box-2/installedComponents"] = {"installedComponents": [broken]}
    page = (await signed_in("GET", "/")).body
    assert "box-1 healthy linux amd64 reader 2.0.0: running" in words(page)
    assert "box-2 unhealthy reader 2.0.0: broken" in words(page)
    assert 'class="chip broken"' in page


async def test_last_values_newest_first_and_escaped(signed_in: Any, hub: Any) -> None:
    row = {
        "series": "line.a",
        "time_ms": T0,
        "dimensions": {"core": "<b>"},
        "fields": {"digit": 7, "p": 0.571715145436309, "ok": False, "text": "x" * 500},
    }
    hub.answers["timeseries/Latest"] = {"rows": [row, {"series": "s", "time_ms": 5, "fields": {"n": 0}}]}
    page = (await signed_in("GET", "/")).body
    assert "<b>" not in page
    text = words(page)
    assert "line.a core=&lt;b&gt; digit=7 p=0.57172 ok=false text=xxx" in text
    assert "x" * 201 not in text
    assert text.index("line.a") < text.index("n=0")
    assert f'data-ms="{T0}"' in page
    assert ("timeseries/Latest", {"limit": 20}) in hub.asked


async def test_a_model_is_shown_against_its_incumbent(signed_in: Any, hub: Any) -> None:
    evaluation = version(2, (0.945, 0.021), (0.66, 0.112))["evaluation"]
    lead = {"accuracy": 0.285, "interval": [0.251, 0.319]}
    published = [{"componentName": "digits.reader", "componentVersion": "2.0.0", "bundleUri": "s3://x"}]
    second = version(2, incumbent=1, evaluation=evaluation | {"lead": lead}, published=published)
    worse = version(
        3, (0.5, 0.2), (0.945, 0.021), incumbent=2, status="Rejected", reasons=["accuracy is 44 points under"]
    )
    hub.answers["models/ListModelVersions"] = {"versions": [worse, second, version(1, (0.66, 0.112))]}
    twin = (await signed_in("GET", "/status.json")).json()["models"]
    assert twin[1] == {
        "name": "digits", "version": 2, "status": "Approved", "accuracy": 0.945, "ece": 0.021, "reasons": [],
        "against": {"version": 1, "accuracy": 0.66, "ece": 0.112, "lead": 0.285, "interval": [0.251, 0.319]},
        "published": ["digits.reader 2.0.0"],
    }  # fmt: skip
    assert twin[2]["against"] is None
    text = words((await signed_in("GET", "/")).body)
    assert "digits v2 approved 94.5 % 0.021 v2 against v1: 94.5 % to 66.0 %, +28.5 points" in text
    assert "95 % interval +25.1 to +31.9; calibration error 0.112 before digits.reader 2.0.0" in text
    assert "digits v3 rejected accuracy is 44 points under 50.0 % 0.200 v3 against v2" in text
    assert "digits v1 approved 66.0 % 0.112 first version not published" in text


async def test_documents_with_less_in_them_are_shown_all_the_same(signed_in: Any, hub: Any) -> None:
    hub.answers["models/ListModelVersions"] = {"versions": [{"name": "m", "version": 1}, {"evaluation": "x"}, 5]}
    hub.answers["timeseries/Latest"] = {"rows": [{}, None]}
    assert (await signed_in("GET", "/")).status == 200
    assert len((await signed_in("GET", "/status.json")).json()["models"]) == 2


@pytest.mark.parametrize(
    "error", [Denied("not allowed"), Unavailable("hub away"), Invalid("no"), LimitExceeded("large")]
)
@pytest.mark.parametrize("part", ["coreDevices", "timeseries/Latest", "models/ListModelVersions"])
async def test_a_part_that_cannot_be_read_is_named_and_the_others_are_there(
    signed_in: Any, hub: Any, part: str, error: Exception
) -> None:
    hub.answers = {
        "coreDevices": {"coreDevices": [{"coreDeviceThingName": "box-1", "status": "HEALTHY"}]},
        "timeseries/Latest": {"rows": [{"series": "line.a", "time_ms": 1, "fields": {"n": 1}}]},
        "models/ListModelVersions": {"versions": [version(1, (0.9, 0.01))]},
        part: error,
    }
    twin = (await signed_in("GET", "/status.json")).json()
    assert len(twin["missing"]) == 1
    assert twin["missing"][0].endswith(f": {error}")
    assert [bool(twin[key]) for key in ("cores", "predictions", "models")].count(True) == 2
    page = await signed_in("GET", "/")
    assert page.status == 200
    assert str(error) in page.body


SCRIPTS = [
    pytest.param("<script>alert(1)</script>", id="element"),
    pytest.param('"><img src=x onerror=alert(1)>', id="attribute"),
    pytest.param("'><svg/onload=alert(1)>", id="single quote"),
    pytest.param("</title></main><script>alert(1)</script>", id="end tags"),
    pytest.param("{{7*7}}${7*7}", id="template"),
]


def hostile(hub: Any, text: str) -> None:
    """Every text that a device, a recipe's author or a model's author chooses."""
    hub.answers["coreDevices"] = {
        "coreDevices": [{"coreDeviceThingName": "box-1", "status": text, "platform": text, "architecture": text}]
    }
    hub.answers["coreDevices/box-1/installedComponents"] = {
        "installedComponents": [{"componentName": text, "componentVersion": text, "lifecycleState": text}]
    }
    hub.answers["timeseries/Latest"] = {
        "rows": [{"series": text, "time_ms": T0, "dimensions": {text: text}, "fields": {text: text}}]
    }
    made = version(1, (0.5, 0.1), status=text, reasons=[text])
    hub.answers["models/ListModelVersions"] = {"versions": [{**made, "name": text}]}


@pytest.mark.parametrize("text", SCRIPTS)
async def test_t17_what_devices_and_authors_write_is_text(signed_in: Any, hub: Any, text: str) -> None:
    plain = (await signed_in("GET", "/")).body
    hostile(hub, text)
    answer = await signed_in("GET", "/")
    for mark in ("<script>alert", "<img", "<svg", "</title></main>"):
        assert mark not in answer.body
    assert answer.body.count("<script") == plain.count("<script")
    assert "49" not in words(answer.body).replace(str(T0), "") if "7*7" in text else "alert" in answer.body
    policy = answer.headers["content-security-policy"]
    assert "default-src 'self'" in policy and "unsafe" not in policy and "object-src 'none'" in policy
    twin = await signed_in("GET", "/status.json")
    assert twin.headers["content-type"].startswith("application/json")
    assert twin.headers["x-content-type-options"] == "nosniff"


async def test_t17_is_found_on_pages_that_do_not_escape(
    browser: Any, hub: Any, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    from marram.console import app as console_app

    monkeypatch.setattr(console_app, "select_autoescape", lambda **_: False)
    open_pages = type(browser)(console_app.Console(hub, clock).app())
    assert (await open_pages("GET", "/login?token=good")).status == 303
    hostile(hub, "<script>alert(1)</script>")
    assert "<script>alert(1)</script>" in (await open_pages("GET", "/")).body
