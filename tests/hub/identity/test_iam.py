"""Users, roles and their sessions on a real database: what they may, when it ends, and what a database of 0.1.0 becomes."""

import json
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import marram.hub.identity
from marram.core.errors import Conflict, Denied, Invalid, LimitExceeded, NotFound, Unauthenticated
from marram.core.policy.documents import MalformedPolicy
from marram.hub.identity.model import Session
from marram.hub.identity.service import EVERYBODY, PrincipalChanged
from marram.kit.clock import FakeClock, SeededEntropy
from marram.kit.db import Db, Migrations

ACCOUNT = "000000000001"
IAM = f"arn:aws:iam::{ACCOUNT}:"
THING = f"arn:aws:iot:local-1:{ACCOUNT}:thing/"
DOCUMENT = '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"iot:ListThings","Resource":"*"}]}'


def trusting(**principal: object) -> str:
    row = {"Effect": "Allow", "Principal": principal, "Action": "sts:AssumeRole"}
    return json.dumps({"Version": "2012-10-17", "Statement": [row]})


async def role(hub, name, *statements, principal=None):
    text = trusting(**(principal or {"AWS": ACCOUNT}))
    made = await hub.identity.roles.create(name, "/", text, description="", max_session_s=3600, tags=())
    if statements:
        await hub.identity.roles.put_policy(name, "p", hub.document(*statements))
    return made


def session(hub, owner, name="s", **more):
    """The subject of a new session of a role."""
    made = hub.identity.sessions.mint(Session(kind="role", owner=owner, name=name, **more), 900)
    return hub.identity.session(made.access_key_id, made.token).subject


def lists(hub, subject):
    return hub.identity.may(subject, "iot:ListThings", "*")


# what users may


async def test_rights_are_the_sum_of_all_policies_and_change_at_once(hub):
    identity = hub.identity
    await identity.users.create("anna", "/", ())
    made, _ = await identity.keys.add("anna")
    who = identity.key(made.id).subject
    assert not lists(hub, who)
    await identity.users.put_policy("anna", "p", DOCUMENT)
    assert lists(hub, identity.refresh(who)) and not identity.may(identity.refresh(who), "s3:GetObject", "*")
    await identity.users.attach("anna", "arn:aws:iam::aws:policy/AmazonS3ReadOnlyAccess")
    assert identity.may(identity.refresh(who), "s3:GetObject", "arn:aws:s3:::b/k")
    await identity.users.put_policy("anna", "no", hub.document({"Effect": "Deny", "Action": "iot:*", "Resource": "*"}))
    assert not lists(hub, identity.refresh(who))
    await identity.users.delete_policy("anna", "no")
    await identity.users.delete_policy("anna", "p")
    assert not lists(hub, identity.refresh(who))


async def test_whoever_holds_a_key_is_told_of_each_change(hub):
    identity = hub.identity
    key = await identity.create_key("anna", DOCUMENT)
    policy = await identity.managed.create("shared", "/", "", DOCUMENT, ())
    await identity.users.attach("anna", policy.arn)
    for change in (
        identity.users.put_policy("anna", "q", DOCUMENT),
        identity.users.delete_policy("anna", "q"),
        identity.managed.create_version(policy.arn, DOCUMENT, as_default=True),
        identity.users.rename("anna", None, "/new/"),
        identity.users.detach("anna", policy.arn),
        identity.keys.set_status("anna", key.id, "Inactive"),
    ):
        identity.keys._base.seen(key.id)
        hub.events.clear()
        await change
        assert PrincipalChanged(key.id) in hub.events
    with pytest.raises(Unauthenticated):
        identity.refresh(key.subject)


async def test_a_renamed_user_is_the_same_with_another_arn(hub):
    identity = hub.identity
    key = await identity.create_key("anna", DOCUMENT)
    await role(hub, "r", principal={"AWS": f"{IAM}user/anna"})
    await identity.users.rename("anna", "anne", "/x/")
    who = identity.refresh(key.subject)
    assert who.arn == f"{IAM}user/x/anne" and who.attributes["aws:username"] == "anne"
    assert identity.assuming.role(who, f"{IAM}role/r", "ss", context={}).arn.endswith("/r/ss")  # trusted by its id


async def test_the_hub_makes_an_administrator_when_there_is_none_that_works(hub):
    identity = hub.identity
    first = identity.admin_key()
    assert identity.admin_key().id == first.id
    hub.clock.advance(1)
    second, _ = await identity.keys.add("admin")
    await identity.keys.set_status("admin", first.id, "Inactive")
    assert identity.admin_key().id == second.id
    await identity.keys.set_status("admin", second.id, "Inactive")
    third = identity.admin_key()
    assert third.id not in (first.id, second.id)
    assert {key.id for key in await identity.keys.of("admin")} == {second.id, third.id}
    assert lists(hub, third.subject)


async def test_last_use_survives_a_restart_once_it_is_written(hub):
    key = await hub.identity.create_key("anna", DOCUMENT)
    hub.identity.key_used(key.id, "iot")
    used_ms = hub.clock.wall_ms()
    assert (await hub.identity.keys.info(key.id))[1].used_ms == used_ms
    await hub.identity.keys.flush()
    await hub.reopen()
    _, row = await hub.identity.keys.info(key.id)
    assert (row.used_ms, row.used_service) == (used_ms, "iot")


async def test_a_user_made_with_its_key_goes_with_it_and_one_with_more_stays(hub):
    identity = hub.identity
    one, two = await identity.create_key("one", DOCUMENT), await identity.create_key("two", DOCUMENT)
    await identity.users.put_policy("two", "more", DOCUMENT)
    await identity.delete_key(one.id)
    await identity.delete_key(two.id)
    with pytest.raises(NotFound):
        await identity.users.get("one")
    assert (await identity.users.get("two")).name == "two"


# roles


async def test_what_a_service_asks_of_a_role(hub):
    identity = hub.identity
    identity.admin_key()
    await role(
        hub,
        "rules",
        {"Action": "iot:Publish", "Resource": "arn:aws:iot:*:*:topic/a"},
        principal={"Service": "iot.amazonaws.com"},
    )
    identity.check_role(f"{IAM}role/rules")
    topic = f"arn:aws:iot:local-1:{ACCOUNT}:topic/"
    identity.check_role(f"{IAM}role/rules", action="iot:Publish", resource=f"{topic}a")
    with pytest.raises(Invalid, match="does not allow iot:Publish"):
        identity.check_role(f"{IAM}role/rules", action="iot:Publish", resource=f"{topic}b")
    with pytest.raises(Invalid, match="trust policy"):
        identity.check_role(f"{IAM}role/rules", "sagemaker.amazonaws.com")
    for wrong in (
        f"{IAM}role/none",
        f"{IAM}role/path/rules",
        "arn:aws:iam::123456789012:role/rules",
        f"{IAM}user/rules",
        "x",
    ):
        with pytest.raises(Invalid):
            identity.check_role(wrong)
    assert identity.may(identity.role_subject(f"{IAM}role/rules"), "iot:Publish", f"{topic}a")
    assert not identity.may(identity.role_subject(f"{IAM}role/rules"), "iot:Publish", f"{topic}b")
    for service in ("iot.amazonaws.com", "sagemaker.amazonaws.com", "credentials.iot.amazonaws.com"):
        identity.check_role(identity.role_arn(), service, "s3:GetObject", "*")


async def test_what_a_service_does_in_a_role_follows_the_role_at_once(hub):
    identity = hub.identity
    identity.admin_key()
    arn = f"{IAM}role/rules"
    identity.act_as(identity.role_arn(), "iot:Publish", "topic/anything")
    with pytest.raises(Denied, match="does not exist"):
        identity.act_as(arn, "iot:Publish", "topic/a")
    await role(
        hub,
        "rules",
        {"Action": "iot:Publish", "Resource": "arn:aws:iot:*:*:topic/a"},
        principal={"Service": "iot.amazonaws.com"},
    )
    identity.act_as(arn, "iot:Publish", "topic/a")
    for action, resource in (("iot:Publish", "topic/b"), ("timestream:WriteRecords", "database/d/table/t")):
        with pytest.raises(Denied, match=f"not authorized to perform: {action}"):
            identity.act_as(arn, action, resource)
    await identity.roles.put_policy(
        "rules", "q", hub.document({"Action": "iot:Publish", "Resource": "arn:aws:iot:*:*:topic/b"})
    )
    identity.act_as(arn, "iot:Publish", "topic/b")
    await identity.roles.update_trust("rules", trusting(Service="sagemaker.amazonaws.com"))
    with pytest.raises(Denied, match="trust policy"):
        identity.act_as(arn, "iot:Publish", "topic/a")
    await identity.roles.update_trust("rules", trusting(Service="iot.amazonaws.com"))
    identity.act_as(arn, "iot:Publish", "topic/a")
    for policy in ("p", "q"):
        await identity.roles.delete_policy("rules", policy)
    await identity.roles.delete("rules")
    with pytest.raises(Denied):
        identity.act_as(arn, "iot:Publish", "topic/a")


async def test_a_confused_deputy_is_told_apart_by_its_source(hub):
    text = json.dumps(
        {
            "Version": "2012-10-17",
            "Statement": [
                {
                    "Effect": "Allow",
                    "Principal": {"Service": "iot.amazonaws.com"},
                    "Action": "sts:AssumeRole",
                    "Condition": {
                        "StringEquals": {"aws:SourceAccount": ACCOUNT},
                        "ArnLike": {"aws:SourceArn": f"arn:aws:iot:*:{ACCOUNT}:rule/mine"},
                    },
                }
            ],
        }
    )
    await hub.identity.roles.create("r", "/", text, description="", max_session_s=3600, tags=())
    hub.identity.check_role(f"{IAM}role/r", resource=f"arn:aws:iot:local-1:{ACCOUNT}:rule/mine")
    for other in (f"arn:aws:iot:local-1:{ACCOUNT}:rule/other", None):
        with pytest.raises(Invalid, match="trust policy"):
            hub.identity.check_role(f"{IAM}role/r", resource=other)


async def test_a_session_follows_its_role(hub):
    made = await role(hub, "r", {"Action": "iot:ListThings", "Resource": "*"})
    subject = session(hub, made.id)
    assert (subject.principal, subject.arn) == (f"{made.id}:s", f"arn:aws:sts::{ACCOUNT}:assumed-role/r/s")
    assert lists(hub, subject)
    hub.events.clear()
    await hub.identity.roles.delete_policy("r", "p")
    assert PrincipalChanged(EVERYBODY) in hub.events  # nobody lists the sessions
    assert subject.epoch != hub.identity.epoch and not lists(hub, hub.identity.refresh(subject))
    await hub.identity.roles.delete("r")
    with pytest.raises(Unauthenticated):
        hub.identity.refresh(subject)
    await role(hub, "r", {"Action": "*", "Resource": "*"})  # another one of the same name
    with pytest.raises(Unauthenticated):
        hub.identity.refresh(subject)


async def test_a_change_of_a_role_that_nobody_has_taken_on_disturbs_nobody(hub):
    await role(hub, "r")
    hub.events.clear()
    await hub.identity.roles.put_policy("r", "p", DOCUMENT)
    assert hub.events == []


async def test_a_session_keeps_its_client_id_over_a_refresh(hub):
    made = await role(hub, "r", {"Action": "iot:*", "Resource": "arn:aws:iot:*:*:client/${iot:ClientId}"})
    subject = hub.identity.with_client(session(hub, made.id), "c1")
    await hub.identity.roles.put_policy("r", "q", DOCUMENT)
    fresh = hub.identity.refresh(subject)
    assert fresh.client_id == "c1" and fresh.session == subject.session
    assert hub.identity.may(fresh, "iot:Connect", f"arn:aws:iot:local-1:{ACCOUNT}:client/c1")


async def test_a_session_ends_at_its_second(hub):
    made = await role(hub, "r")
    minted = hub.identity.sessions.mint(Session(kind="role", owner=made.id, name="s"), 900)
    hub.clock.advance(900_000 - 1)
    subject = hub.identity.session(minted.access_key_id, minted.token).subject
    hub.clock.advance(1)
    for ended in (
        lambda: hub.identity.session(minted.access_key_id, minted.token),
        lambda: hub.identity.refresh(subject),
    ):
        with pytest.raises(Unauthenticated) as caught:
            ended()
        assert caught.value.data["reason"] == "token_expired"


async def test_a_session_of_a_certificate_ends_with_the_certificate(hub):
    made = await role(hub, "r", {"Action": "iot:ListThings", "Resource": "*"})
    der = await hub.certificate()
    certificate = hub.identity.certificate_subject(der).principal
    subject = session(hub, made.id, certificate=certificate)
    await hub.identity.set_status(certificate, "REVOKED")
    with pytest.raises(Unauthenticated):
        hub.identity.refresh(subject)


async def test_a_deleted_session_policy_takes_all_rights_and_gives_none(hub):
    made = await role(hub, "r", {"Action": "*", "Resource": "*"})
    policy = await hub.identity.managed.create("narrow", "/", "", DOCUMENT, ())
    subject = session(hub, made.id, policy_arns=(policy.arn,))
    assert lists(hub, subject) and not hub.identity.may(subject, "iot:CreateThing", "*")
    await hub.identity.managed.delete(policy.arn)
    assert not lists(hub, session(hub, made.id, policy_arns=(policy.arn,)))


async def test_trust_may_not_name_whom_there_is_not(hub):
    for principal in (f"{IAM}user/none", f"{IAM}role/none", f"arn:aws:sts::{ACCOUNT}:assumed-role/none/s"):
        with pytest.raises(MalformedPolicy, match="there is no such"):
            await role(hub, "r", principal={"AWS": principal})
    await hub.identity.create_key("anna", DOCUMENT)
    with pytest.raises(MalformedPolicy):  # the name alone does not do
        await role(hub, "r", principal={"AWS": f"{IAM}user/path/anna"})


async def test_whoever_has_a_certificate_takes_no_role_on_by_sts(hub):
    await role(hub, "r", principal={"AWS": "*"})
    device = hub.identity.certificate_subject(await hub.certificate())
    with pytest.raises(Denied):
        hub.identity.assuming.role(device, f"{IAM}role/r", "ss", context={})


async def test_limits(hub):
    identity = hub.identity
    await identity.users.create("anna", "/", ())
    for at in range(10):
        policy = await identity.managed.create(f"p{at}", "/", "", DOCUMENT, ())
        await identity.users.attach("anna", policy.arn)
    await identity.users.attach("anna", policy.arn)  # again is fine
    with pytest.raises(LimitExceeded):
        await identity.users.attach("anna", "arn:aws:iam::aws:policy/ReadOnlyAccess")
    assert len(await identity.users.attached("anna")) == 10
    for _ in range(4):
        await identity.managed.create_version(policy.arn, DOCUMENT, as_default=False)
    with pytest.raises(LimitExceeded):
        await identity.managed.create_version(policy.arn, DOCUMENT, as_default=False)
    for text in ("", "{", "[]", '{"Statement": []}'):
        with pytest.raises(MalformedPolicy):
            await identity.users.put_policy("anna", "p", text)


async def test_the_role_of_the_hub_cannot_be_changed(hub):
    roles = hub.identity.roles
    hub.identity.admin_key()
    for change in (
        roles.delete("marram-service"),
        roles.update("marram-service", description="x"),
        roles.update_trust("marram-service", trusting(AWS=ACCOUNT)),
        roles.put_policy("marram-service", "p", DOCUMENT),
        roles.attach("marram-service", "arn:aws:iam::aws:policy/ReadOnlyAccess"),
        roles.detach("marram-service", "arn:aws:iam::aws:policy/AdministratorAccess"),
    ):
        with pytest.raises(Conflict):
            await change


_actions = st.sampled_from(["iot:ListThings", "iot:*", "s3:GetObject", "*", "iam:CreateUser", "iot:L?stThings"])
_rows = st.fixed_dictionaries(
    {"Effect": st.sampled_from(["Allow", "Allow", "Deny"]), "Action": _actions},
    optional={
        "Condition": st.sampled_from([{"Bool": {"aws:SecureTransport": "true"}}, {"Null": {"aws:username": "true"}}])
    },
)
_documents = st.lists(_rows, min_size=1, max_size=3)


@given(st.lists(_documents, max_size=2), st.lists(_documents, min_size=1, max_size=2), _actions, st.booleans())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_a_session_policy_never_gives(hub, role_documents, session_documents, action, secure):
    """A narrowed session may what the role may and what the session's policies allow, and nothing else."""

    def texts(documents):
        return tuple(hub.document(*({**row, "Resource": "*"} for row in rows)) for rows in documents)

    name = f"r{hub.entropy.bytes(8).hex()}"
    made = await role(hub, name)
    for at, text in enumerate(texts(role_documents)):
        await hub.identity.roles.put_policy(name, f"p{at}", text)
    seen = {"aws:SecureTransport": "true" if secure else "false"}
    asked = action.replace("*", "X").replace("?", "i") if action != "*" else "sts:X"

    def may(subject):
        return hub.identity.may(subject, asked, "*", seen)

    other = await role(hub, f"{name}o")
    for at, text in enumerate(texts(session_documents)):
        await hub.identity.roles.put_policy(f"{name}o", f"p{at}", text)
    narrowed = session(hub, made.id, policies=texts(session_documents))
    assert may(narrowed) == (may(session(hub, made.id)) and may(session(hub, other.id)))
    why = hub.identity.denial(narrowed, asked, "*", seen)
    if not may(narrowed):
        assert why.startswith(f"User: {narrowed.arn} is not authorized to perform: {asked} on resource: * ")
        kind = "identity-based" if not may(session(hub, made.id)) else "session"
        assert f"{kind} policy" in why


# a database of 0.1.0


async def test_keys_of_0_1_0_become_keys_of_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from marram.hub.bus import Bus
    from marram.hub.identity.pki import Pki
    from marram.hub.identity.service import Identity

    # As that version had it: the first two migrations.
    here = Path(marram.hub.identity.__file__).parent / "migrations"
    old = tmp_path / "lib" / "identity_0_1_0" / "migrations"
    old.mkdir(parents=True)
    (old.parent / "__init__.py").write_text("")
    for name in ("0001_identity.sql", "0002_login.sql"):
        (old / name).write_bytes((here / name).read_bytes())
    monkeypatch.setattr(sys, "path", [str(tmp_path / "lib"), *sys.path])
    clock, entropy = FakeClock(), SeededEntropy(1)
    pki = Pki.open(tmp_path / "pki", clock=clock, entropy=entropy, names=["hub.example"])
    rows = [("MRAK" + "A" * 16, "admin"), ("MRAK" + "B" * 16, "Ci"), ("MRAK" + "C" * 16, "ci")]

    def fill(tx) -> None:
        for key_id, name in rows:
            sealed = pki.seal(f"secret-{name}".encode(), label=f"key:{key_id}")
            tx.execute("INSERT INTO identity_key VALUES (?, ?, ?, ?, ?)", key_id, name, sealed, DOCUMENT, 7)

    with Db.open(
        tmp_path / "hub.db",
        clock=clock,
        entropy=entropy,
        migrations=[Migrations(slice="identity", package="identity_0_1_0")],
    ) as db:
        db.write_sync(fill)
    with Db.open(
        tmp_path / "hub.db", clock=clock, entropy=entropy,
        migrations=[Migrations(slice="identity", package="marram.hub.identity")],
    ) as db:  # fmt: skip
        identity = Identity(db, pki, Bus(), clock=clock, entropy=entropy, account=ACCOUNT, region="local-1")
        for key_id, name in rows:
            key = identity.key(key_id)
            assert (key.secret, key.name, key.subject.arn) == (f"secret-{name}", name, f"{IAM}user/{name}")
            assert identity.may(key.subject, "iot:ListThings", "*")
            assert (await identity.users.policy(name, "marram-key"))[1] == DOCUMENT
        assert identity.admin_key().id == rows[0][0]
        assert [(info.name, info.created_ms) for info in await identity.keys.page(("", ""), 9)] == [
            ("Ci", 7), ("admin", 7), ("ci", 7),
        ]  # fmt: skip
        await identity.keys.add("ci")  # two keys now


async def test_why_a_user_or_a_role_may_or_may_not(hub):
    await hub.identity.create_key("anna", DOCUMENT)
    await role(hub, "r", {"Effect": "Deny", "Action": "iot:*", "Resource": "*"})
    for principal, decision in (
        (f"{IAM}user/anna", "allowed"),
        (f"{IAM}role/r", "explicit deny"),
    ):
        why = await hub.call(
            "identity/ExplainPolicy", "marram", principal=principal, action="iot:ListThings", resource="*"
        )
        assert why["decision"] == decision
    with pytest.raises(NotFound):
        await hub.call("identity/ExplainPolicy", "marram", principal=f"{IAM}user/none", action="iot:X", resource="*")


async def test_the_property_finds_a_hub_that_forgets_the_session_s_policy(hub, monkeypatch):
    """So that a green property means something."""
    made = await role(hub, "r", {"Action": "*", "Resource": "*"})
    narrowed = session(hub, made.id, policies=(DOCUMENT,))
    assert not hub.identity.may(narrowed, "iot:CreateThing", "*")
    monkeypatch.setattr(
        hub.identity, "may", lambda subject, action, resource: subject.program.may(action, resource, subject.attributes)
    )
    assert hub.identity.may(narrowed, "iot:CreateThing", "*")
