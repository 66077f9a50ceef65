import asyncio

import pytest

from marram.core.errors import AlreadyExists, Conflict, Denied, Invalid, LimitExceeded, NotFound, Unauthenticated
from marram.core.policy.documents import MalformedPolicy
from marram.hub.identity import pki
from marram.hub.identity.service import EVERYBODY, PrincipalChanged
from marram.hub.registry.service import Search

ARN = "arn:aws:iot:local-1:000000000001:"
ROLE = "arn:aws:iam::000000000001:role/marram-service"
OWN_TOPICS = {"Action": "iot:Publish", "Resource": f"{ARN}topic/${{iot:Connection.Thing.ThingName}}/*"}
ANYTHING = {"Action": "iot:Publish", "Resource": "*"}


def publishes(hub, subject, topic):
    return hub.identity.may(subject, "iot:Publish", f"{ARN}topic/{topic}")


def cert(der):
    return f"{ARN}cert/{pki.certificate_id(der)}"


# who is it


async def test_an_unknown_certificate_is_nobody(hub):
    der = hub.identity.pki.issue_device().der  # signed by us, never recorded
    with pytest.raises(Unauthenticated):
        hub.identity.certificate_subject(der)


@pytest.mark.parametrize("status", ["INACTIVE", "REVOKED"])
async def test_a_certificate_that_is_not_active_is_nobody(hub, status):
    der = await hub.certificate()
    subject = hub.identity.certificate_subject(der)
    await hub.identity.set_status(subject.principal, status)
    with pytest.raises(Denied):
        hub.identity.certificate_subject(der)
    assert subject.epoch != hub.identity.epoch
    with pytest.raises(Denied):
        hub.identity.refresh(subject)


async def test_a_certificate_without_policy_may_nothing(hub):
    subject = hub.device(await hub.certificate(), "c")
    assert not publishes(hub, subject, "a")
    assert not hub.identity.may(subject, "iot:Connect", f"{ARN}client/c")


async def test_a_thing_is_bound_only_by_its_name_and_its_certificate(hub):
    await hub.policy("own", OWN_TOPICS)
    mine = await hub.certificate("own", thing="one")
    other = await hub.certificate("own", thing="two")
    assert hub.device(mine, "one").thing == "one"
    assert publishes(hub, hub.device(mine, "one"), "one/x")
    assert not publishes(hub, hub.device(mine, "one"), "two/x")
    assert hub.device(other, "one").thing is None  # the name alone is not enough
    assert not publishes(hub, hub.device(other, "one"), "one/x")
    assert not publishes(hub, hub.identity.certificate_subject(mine), "one/x")


async def test_variables_of_thing_type_attributes_and_certificate(hub):
    await hub.policy(
        "p",
        {"Action": "iot:Publish", "Resource": f"{ARN}topic/${{iot:Connection.Thing.Attributes[site]}}/x"},
        {"Action": "iot:Publish", "Resource": f"{ARN}topic/type/${{iot:Connection.Thing.ThingTypeName}}"},
        {"Action": "iot:Publish", "Resource": f"{ARN}topic/cert/${{iot:CertificateId}}"},
        {"Action": "iot:Publish", "Resource": f"{ARN}topic/id/${{iot:ClientId}}"},
        {"Action": "iot:Publish", "Resource": f"{ARN}topic/cn/${{iot:Certificate.Issuer.Organization}}"},
        {"Action": "iot:Receive", "Resource": "*", "Condition": {"Bool": {"iot:Connection.Thing.IsAttached": "true"}}},
    )
    der = await hub.certificate("p", thing="t")
    await hub.registry.create_type("pump")
    before = hub.device(der, "t")
    await hub.registry.update_thing("t", type_name="pump", attributes={"site": "north", "unsafe": "a/b"})
    assert hub.identity.epoch != before.epoch
    subject = hub.identity.refresh(before)
    assert publishes(hub, subject, "north/x")
    assert publishes(hub, subject, "type/pump")
    assert publishes(hub, subject, f"cert/{subject.principal}")
    assert publishes(hub, subject, "id/t")
    assert publishes(hub, subject, "cn/Marram")
    assert hub.identity.may(subject, "iot:Receive", "x")
    stranger = hub.device(der, "u")
    assert not hub.identity.may(stranger, "iot:Receive", "x")
    assert publishes(hub, stranger, "id/u")
    await hub.registry.update_thing("t", attributes={"site": "a/b"})
    assert not publishes(hub, hub.identity.refresh(subject), "a/b/x")


async def test_a_subject_holds_only_the_values_that_its_policies_name(hub):
    await hub.policy("any", ANYTHING)
    assert not hub.device(await hub.certificate("any", thing="t"), "t").attributes


# what may it do, and since when


async def test_each_change_is_seen_at_the_next_refresh(hub):
    await hub.policy("p", ANYTHING)
    der = await hub.certificate()
    subject = hub.device(der, "c")
    assert not publishes(hub, subject, "a")

    async def now() -> bool:
        nonlocal subject
        assert subject.epoch != hub.identity.epoch
        subject = hub.identity.refresh(subject)
        assert subject.epoch == hub.identity.epoch
        return publishes(hub, subject, "a")

    await hub.identity.attach_policy("p", cert(der))
    assert await now()
    await hub.identity.create_version("p", hub.document({"Action": "iot:Receive", "Resource": "*"}), as_default=True)
    assert not await now()
    await hub.identity.set_default_version("p", "1")
    assert await now()
    await hub.identity.detach_policy("p", cert(der))
    assert not await now()
    assert PrincipalChanged(pki.certificate_id(der)) in hub.events
    assert PrincipalChanged(EVERYBODY) in hub.events


async def test_a_change_of_one_leaves_the_others_alone(hub):
    await hub.policy("p", ANYTHING)
    one, two = await hub.certificate("p"), await hub.certificate("p")
    held, other = hub.identity.certificate_subject(one), hub.identity.certificate_subject(two)
    await hub.identity.set_status(other.principal, "REVOKED")
    fresh = hub.identity.refresh(held)
    assert fresh.policies is held.policies
    assert publishes(hub, fresh, "a")


async def test_provisioning_does_not_raise_the_epoch(hub):
    await hub.policy("p", ANYTHING)
    held = hub.identity.certificate_subject(await hub.certificate("p"))
    for number in range(5):
        await hub.certificate("p", thing=f"t{number}")
    assert hub.identity.epoch == held.epoch


async def test_policies_of_groups_and_their_parents_count(hub):
    await hub.policy("own", {"Action": "iot:Connect", "Resource": "*"})
    await hub.policy("of-parent", ANYTHING)
    await hub.policy("no-secrets", {"Effect": "Deny", "Action": "iot:Publish", "Resource": f"{ARN}topic/secret"})
    await hub.registry.create_group("parent")
    await hub.registry.create_group("child", parent="parent")
    await hub.identity.attach_policy("of-parent", f"{ARN}thinggroup/parent")
    der = await hub.certificate("own", thing="t")
    subject = hub.device(der, "t")
    assert not publishes(hub, subject, "a")
    await hub.registry.add_to_group("child", "t")
    subject = hub.identity.refresh(subject)
    assert publishes(hub, subject, "a")
    assert publishes(hub, subject, "secret")
    await hub.identity.attach_policy("no-secrets", f"{ARN}thinggroup/child")
    subject = hub.identity.refresh(subject)
    assert publishes(hub, subject, "a")
    assert not publishes(hub, subject, "secret")
    await hub.registry.remove_from_group("child", "t")
    assert not publishes(hub, hub.identity.refresh(subject), "a")


async def test_detaching_the_thing_ends_its_variables(hub):
    await hub.policy("own", OWN_TOPICS)
    der = await hub.certificate("own", thing="t")
    subject = hub.device(der, "t")
    await hub.registry.detach_principal("t", cert(der))
    subject = hub.identity.refresh(subject)
    assert subject.thing is None
    assert not publishes(hub, subject, "t/x")


async def test_time_is_a_condition(hub):
    limit = {"DateLessThan": {"aws:CurrentTime": "2025-06-16T00:00:00Z"}}
    await hub.policy("p", {**ANYTHING, "Condition": limit})
    subject = hub.device(await hub.certificate("p"), "c")
    assert publishes(hub, subject, "a")  # the fake clock begins on 2025-06-15
    hub.clock.advance(24 * 3600 * 1000)
    assert not publishes(hub, subject, "a")


async def test_the_internal_subject_may_all(hub):
    assert hub.identity.may(hub.identity.internal, "marram:Anything", "arn:x")
    assert hub.identity.internal.arn == ROLE
    hub.identity.check_role(ROLE)
    with pytest.raises(Invalid, match="marram-service"):
        hub.identity.check_role("arn:aws:iam::000000000001:role/other")


async def test_a_stored_document_that_no_longer_reads_denies(hub):
    await hub.policy("p", ANYTHING)
    await hub.policy("q", ANYTHING)
    der = await hub.certificate("p", "q")

    def spoil(tx):
        tx.execute("UPDATE identity_policy_version SET document = '{\"new\": 1}' WHERE policy = 'p'")
        tx.touch("identity_policy", "p")

    await hub.db.write(spoil)
    assert not publishes(hub, hub.device(der, "c"), "a")


# certificates


async def test_deletion_needs_inactive_and_detached(hub):
    await hub.policy("p", ANYTHING)
    der = await hub.certificate("p", thing="t")
    found = pki.certificate_id(der)
    with pytest.raises(Conflict, match="ACTIVE") as caught:
        await hub.identity.delete_certificate(found, force=True)
    assert caught.value.data["kind"] == "certificate_state"
    await hub.identity.set_status(found, "INACTIVE")
    with pytest.raises(Conflict, match="thing"):
        await hub.identity.delete_certificate(found, force=True)
    await hub.registry.detach_principal("t", cert(der))
    with pytest.raises(Conflict, match="policies"):
        await hub.identity.delete_certificate(found)
    await hub.identity.delete_certificate(found, force=True)
    with pytest.raises(NotFound):
        await hub.identity.certificate(found)
    await hub.identity.delete_policy("p")  # nothing holds it


@pytest.mark.parametrize("status", ["PENDING_TRANSFER", "PENDING_ACTIVATION", "REGISTER_INACTIVE", "active"])
async def test_statuses_that_nobody_may_set(hub, status):
    der = await hub.certificate()
    with pytest.raises(Invalid):
        await hub.identity.set_status(pki.certificate_id(der), status)


# policies


async def test_five_versions_and_no_number_twice(hub):
    document = hub.document(ANYTHING)
    await hub.policy("p", ANYTHING)
    with pytest.raises(AlreadyExists):
        await hub.policy("p", ANYTHING)
    for number in (2, 3, 4, 5):
        assert await hub.identity.create_version("p", document, as_default=False) == number
    with pytest.raises(LimitExceeded) as caught:
        await hub.identity.create_version("p", document, as_default=False)
    assert caught.value.data["kind"] == "versions"
    with pytest.raises(Conflict, match="default"):
        await hub.identity.delete_version("p", "1")
    with pytest.raises(Conflict, match="versions"):
        await hub.identity.delete_policy("p")
    await hub.identity.delete_version("p", "5")
    assert await hub.identity.create_version("p", document, as_default=True) == 6
    with pytest.raises(NotFound):
        await hub.identity.policies.version("p", "5")
    with pytest.raises(Invalid):
        await hub.identity.policies.version("p", "v1")


async def test_a_bad_document_changes_nothing(hub):
    with pytest.raises(MalformedPolicy):
        await hub.identity.create_policy("p", "{}")
    with pytest.raises(NotFound):
        await hub.identity.policy("p")
    await hub.policy("p", ANYTHING)
    with pytest.raises(MalformedPolicy):
        await hub.identity.create_version("p", '{"Statement": []}', as_default=True)
    assert (await hub.identity.policy("p"))[0].default_version == 1
    with pytest.raises(Invalid):
        await hub.identity.create_policy("a/b", hub.document(ANYTHING))


async def test_ten_policies_a_target(hub):
    der = await hub.certificate()
    for number in range(11):
        await hub.policy(f"p{number}", ANYTHING)
    for number in range(10):
        await hub.identity.attach_policy(f"p{number}", cert(der))
        await hub.identity.attach_policy(f"p{number}", cert(der))  # again is fine
    with pytest.raises(LimitExceeded):
        await hub.identity.attach_policy("p10", cert(der))
    assert len(await hub.identity.attached_policies(cert(der), "", 50)) == 10


@pytest.mark.parametrize(
    ("target", "error"),
    [
        pytest.param("nonsense", Invalid, id="no arn"),
        pytest.param(f"{ARN}thing/t", Invalid, id="a thing"),
        pytest.param(f"{ARN}cert/xyz", Invalid, id="no certificate id"),
        pytest.param("arn:aws:iot:local-1:000000000002:cert/" + "0" * 64, Invalid, id="other account"),
        pytest.param("arn:aws:iot:eu-west-1:000000000001:cert/" + "0" * 64, Invalid, id="other region"),
        pytest.param(f"{ARN}cert/" + "0" * 64, NotFound, id="unknown certificate"),
        pytest.param(f"{ARN}thinggroup/none", NotFound, id="unknown group"),
    ],
)
async def test_targets_that_are_none(hub, target, error):
    await hub.policy("p", ANYTHING)
    with pytest.raises(error):
        await hub.identity.attach_policy("p", target)
    with pytest.raises(NotFound):
        await hub.identity.attach_policy("none", cert(await hub.certificate()))


# keys


async def test_a_key_may_what_its_policy_says_and_is_revoked_at_once(hub):
    made = await hub.identity.create_key("ci", hub.document({"Action": "iot:Describe*", "Resource": f"{ARN}thing/a*"}))
    key = hub.identity.key(made.id)
    assert (key.secret, key.subject.arn) == (made.secret, "arn:aws:iam::000000000001:user/ci")
    assert made.secret not in repr(key)
    assert hub.identity.may(key.subject, "iot:DescribeThing", f"{ARN}thing/abc")
    assert not hub.identity.may(key.subject, "iot:DescribeThing", f"{ARN}thing/b")
    assert not hub.identity.may(key.subject, "iot:DeleteThing", f"{ARN}thing/abc")
    with pytest.raises(AlreadyExists):
        await hub.identity.create_key("ci", hub.document(ANYTHING))
    await hub.identity.delete_key(made.id)
    with pytest.raises(Unauthenticated):
        hub.identity.key(made.id)
    with pytest.raises(Unauthenticated):
        hub.identity.refresh(key.subject)
    with pytest.raises(NotFound):
        await hub.identity.delete_key(made.id)


async def test_the_admin_key_is_made_once_and_survives(hub):
    made = hub.identity.admin_key()
    assert hub.identity.admin_key().id == made.id
    await hub.reopen()
    again = hub.identity.admin_key()
    assert (again.id, again.secret) == (made.id, made.secret)
    assert hub.identity.may(again.subject, "marram:CreateKey", "*")
    assert made.secret.encode() not in (hub.folder / "hub.db").read_bytes()


@pytest.mark.parametrize("name", ["", "a b", "x" * 65, "a/b"])
async def test_key_names(hub, name):
    with pytest.raises(Invalid):
        await hub.identity.create_key(name, hub.document(ANYTHING))


# joining


async def test_joining_makes_a_core_that_may_connect(hub):
    token, ends_ms = await hub.identity.create_join_token()
    assert token.split(".")[2] == hub.identity.pki.root_fingerprint
    assert ends_ms == hub.clock.wall_ms() + 15 * 60 * 1000
    bundle = await hub.identity.join(token, "core-1", names=["192.0.2.7", "edge.example"])
    der = hub.der(bundle["certificatePem"])
    subject = hub.device(der, "core-1")
    assert subject.thing == "core-1"
    for client, may in (("core-1", True), ("core-1#2", True), ("core-2", False), ("core-10", False)):
        assert hub.identity.may(subject, "iot:Connect", f"{ARN}client/{client}") is may
    assert publishes(hub, subject, "$aws/things/core-1/shadow/update")
    assert hub.identity.may(subject, "greengrass:GetComponentVersionArtifact", "*")
    assert "PRIVATE KEY" in bundle["privateKeyPem"]
    assert bundle["endpoints"] == {"mqtt": "mqtts://localhost:8883", "https": "https://localhost:8443"}
    assert bytes.fromhex(bundle["signingKey"]) == hub.identity.pki.public_signing_key
    with pytest.raises(Unauthenticated):  # one use
        await hub.identity.join(token, "core-1")
    token, _ = await hub.identity.create_join_token()
    with pytest.raises(Denied, match="join-token --thing core-1"):  # no token for anybody makes a machine that is there
        await hub.identity.join(token, "core-1")
    token, _ = await hub.identity.create_join_token(thing="core-1")
    await hub.identity.join(token, "core-1")  # a second certificate for the thing that is there
    assert len(await hub.registry.certificates_of("core-1")) == 2


@pytest.mark.parametrize("name", ["*", "*.example", "hub.example", "HUB.example", "hub.example."])
async def test_a_core_gets_no_certificate_to_stand_in_for_the_hub(hub, name):
    token, _ = await hub.identity.create_join_token(thing="core-1")
    with pytest.raises(Invalid):
        await hub.identity.join(token, "core-1", names=["edge.example", name])
    assert await hub.registry.things.page(Search(), None, 10) == ([], None)
    await hub.identity.join(token, "core-1", names=["edge.example"])  # the token was not used up


async def test_a_token_ends_after_fifteen_minutes(hub):
    token, _ = await hub.identity.create_join_token()
    hub.clock.advance(15 * 60 * 1000)
    with pytest.raises(Unauthenticated):
        await hub.identity.join(token, "core")


async def test_two_at_once_with_one_token(hub):
    token, _ = await hub.identity.create_join_token()
    answers = [asyncio.ensure_future(hub.identity.join(token, f"core-{number}")) for number in range(4)]
    await asyncio.wait(answers)
    assert sum(answer.exception() is None for answer in answers) == 1
    assert all(isinstance(answer.exception(), Unauthenticated | None) for answer in answers)
    assert len((await hub.registry.things.page(Search(), None, 10))[0]) == 1


@pytest.mark.parametrize("token", ["", "mrm1", "mrm1..x", "mrm2.a.b", "mrm1.wrong.f"])
async def test_tokens_that_are_none(hub, token):
    with pytest.raises((Invalid, Unauthenticated)):
        await hub.identity.join(token, "core")


async def test_a_token_may_be_bound_to_thing_and_policy(hub):
    await hub.policy("narrow", {"Action": "iot:Connect", "Resource": "*"})
    with pytest.raises(NotFound):
        await hub.identity.create_join_token(policy="none")
    token, _ = await hub.identity.create_join_token(thing="core", policy="narrow")
    with pytest.raises(Denied):
        await hub.identity.join(token, "other")
    bundle = await hub.identity.join(token, "core")
    subject = hub.device(hub.der(bundle["certificatePem"]), "core")
    assert [policy.name for policy in subject.policies] == ["narrow"]
    assert not publishes(hub, subject, "a")


async def test_a_bad_request_does_not_spend_the_token(hub):
    token, _ = await hub.identity.create_join_token()
    for thing, csr in (("a b", None), ("core", "nonsense")):
        with pytest.raises(Invalid):
            await hub.identity.join(token, thing, csr)
    assert (await hub.identity.join(token, "core"))["thingName"] == "core"


async def test_all_survives_a_restart(hub):
    await hub.policy("own", OWN_TOPICS)
    der = await hub.certificate("own", thing="t")
    root = hub.identity.pki.root_pem
    await hub.reopen()
    assert publishes(hub, hub.device(der, "t"), "t/x")
    assert hub.identity.pki.root_pem == root
