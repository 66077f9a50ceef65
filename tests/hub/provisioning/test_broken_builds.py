"""The attacks and cuts of this folder against builds that are broken on purpose: each succeeds there, so each test can fail."""

import json

import pytest

from marram.core import provisioning
from marram.hub.provisioning import bulk, claims, store
from marram.hub.provisioning.making import Making
from tests.hub.provisioning import test_authorities, test_bulk, test_claims, test_making
from tests.hub.provisioning.conftest import template

FAILS = (AssertionError, KeyError)  # how a test of this folder ends that does not get its refusal


async def test_a_token_without_its_client(plant, monkeypatch):
    real = claims.Claims._certificate_of

    def of_anybody(self, token, asker):
        thief = claims.Asker(subject=asker.subject, client_id="device")
        return real(self, token, thief)

    monkeypatch.setattr(claims.Claims, "_certificate_of", of_anybody)
    with pytest.raises(FAILS):
        await test_claims.test_a_token_is_for_one_client_one_claim_one_time_and_one_hour(plant)


async def test_a_token_for_many_times(plant, monkeypatch):
    monkeypatch.setattr(store, "is_pending", lambda tx, certificate_id: True)
    with pytest.raises(FAILS):
        await test_claims.test_a_token_is_for_one_client_one_claim_one_time_and_one_hour(plant)


async def test_a_provision_of_several_transactions(plant, monkeypatch):
    """The thing commits by itself, then the rest is refused."""
    real = Making.prepare

    def early(self, read, parameters, given):
        prepared = real(self, read, parameters, given)
        plant.db.write_sync(lambda tx: plant.registry.create_thing_tx(tx, prepared.plan.thing.name))
        return prepared

    monkeypatch.setattr(Making, "prepare", early)
    with pytest.raises(FAILS):
        await test_claims.test_templates_that_fail_on_the_way_leave_nothing(
            plant, template(document="{}"), 400, "InvalidRequest"
        )


async def test_the_place_of_another(plant, monkeypatch):
    real = Making._thing

    def careless(self, tx, wanted, prepared):
        object.__setattr__(wanted, "overrides", True)
        real(self, tx, wanted, prepared)

    monkeypatch.setattr(Making, "_thing", careless)
    with pytest.raises(FAILS):
        await test_making.test_a_device_takes_the_place_of_a_thing_only_where_the_template_says_so(plant)


async def test_what_a_device_says_in_a_policy(plant, monkeypatch):
    document = {
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Action": "iot:Publish", "Resource": {"Ref": "Serial"}}],
    }
    read = provisioning.parse(template({"ThingName": "t"}, document=document), provisioning.Kind.FLEET)
    given = {provisioning.CERTIFICATE_ID: "c" * 64}
    with pytest.raises(provisioning.BadParameters):
        provisioning.evaluate(read, {"Serial": "*"}, given)
    monkeypatch.setattr(provisioning, "_LOOSE", provisioning.re.compile(r"(?!)"))
    made = provisioning.evaluate(read, {"Serial": "*"}, given)
    assert json.loads(made.policies[0].document)["Statement"][0]["Resource"] == "*"


@pytest.mark.parametrize("how", ["impostor", "inactive"])
async def test_a_ca_that_is_not_asked(plant, monkeypatch, how):
    from marram.hub.identity import foreign, store_authorities

    if how == "impostor":
        monkeypatch.setattr(foreign, "is_signed_by", lambda certificate, authority: True)
    else:
        real = store_authorities._authority
        awake = lambda row: real((*row[:3], "ACTIVE", *row[4:]))  # noqa: E731
        monkeypatch.setattr(store_authorities, "_authority", awake)
    with pytest.raises(FAILS):
        await test_authorities.test_no_trace_of_strangers(plant, how)


async def test_a_task_that_forgets_what_is_done(plant, monkeypatch):
    """After a start it does the lines of the last life again: they are rows already, and fail."""
    real = bulk.Bulk._some_lines

    async def all_of_them(self, task_id, read, lines):
        if not lines:
            raise RuntimeError("nothing to do")
        await real(self, task_id, read, lines)

    monkeypatch.setattr(bulk.store, "lines", _forgetful(bulk.store.lines))
    monkeypatch.setattr(bulk.Bulk, "_some_lines", all_of_them)
    with pytest.raises((AssertionError, BaseExceptionGroup, TimeoutError)):
        await test_bulk.test_a_cut_anywhere_does_no_line_twice_and_misses_none(plant, monkeypatch, 17)


def _forgetful(real):
    asked = []

    def lines(tx, task_id):
        asked.append(task_id)
        return [] if len(asked) <= 2 else real(tx, task_id)  # the question at the start of each life

    return lines
