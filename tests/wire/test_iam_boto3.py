"""Users, keys, roles and temporary credentials with unmodified boto3 and aws-cli, and who gets where he should not."""

import http.client
import json
import os
import select
import shutil
import socket
import socketserver
import ssl
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import quote

import awscrt.auth
import awscrt.http
import awscrt.io
import boto3
import paho.mqtt.client as paho
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from marram.cli.client import Api
from marram.core import sigv4

ACCOUNT = "000000000001"
IAM = f"arn:aws:iam::{ACCOUNT}:"
_numbers = count(1)
AWS = shutil.which("aws")


def document(*statements: dict[str, Any]) -> str:
    """Statements allow unless they say otherwise."""
    return json.dumps(
        {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Resource": "*", **row} for row in statements]}
    )


def trust(principal: Any, **more: Any) -> str:
    row = {"Effect": "Allow", "Principal": principal, "Action": "sts:AssumeRole", **more}
    return json.dumps({"Version": "2012-10-17", "Statement": [row]})


class World:
    """A hub, its administrator's clients, and users and roles made for one test."""

    def __init__(self, hub: Any) -> None:
        self.hub = hub
        self.session = boto3.session.Session()
        self.client = cache(self._client)

    def _client(self, service: str, key: tuple[str, ...] = ()) -> Any:
        """As the administrator, or with (id, secret[, token])."""
        admin = self.hub.info["admin"]
        key_id, secret, token = (*key, None)[:3] if key else (admin["access_key_id"], admin["secret_access_key"], None)
        made = self.session.client(
            service, endpoint_url=self.hub.info["endpoints"]["api"], region_name=self.hub.info["region"],
            aws_access_key_id=key_id, aws_secret_access_key=secret, aws_session_token=token,
            config=Config(retries={"max_attempts": 1}),
        )  # fmt: skip
        self.hub.clients.append(made)
        return made

    @property
    def iam(self) -> Any:
        return self.client("iam")

    @staticmethod
    def name(stem: str) -> str:
        return f"{stem}-{next(_numbers)}"

    def user(self, *statements: dict[str, Any]) -> tuple[str, tuple[str, str]]:
        """(name, key)."""
        name = self.name("user")
        self.iam.create_user(UserName=name)
        if statements:
            self.iam.put_user_policy(UserName=name, PolicyName="p", PolicyDocument=document(*statements))
        return name, self.key(name)

    def key(self, name: str) -> tuple[str, str]:
        made = self.iam.create_access_key(UserName=name)["AccessKey"]
        return made["AccessKeyId"], made["SecretAccessKey"]

    def role(self, trusted: str, *statements: dict[str, Any], **more: Any) -> tuple[str, str]:
        """(name, ARN)."""
        name = self.name("role")
        made = self.iam.create_role(RoleName=name, AssumeRolePolicyDocument=trusted, **more)["Role"]
        if statements:
            self.iam.put_role_policy(RoleName=name, PolicyName="p", PolicyDocument=document(*statements))
        return name, made["Arn"]

    def assume(self, key: tuple[str, ...], role_arn: str, **more: Any) -> tuple[str, str, str]:
        got = self.client("sts", key).assume_role(RoleArn=role_arn, RoleSessionName="s1", **more)["Credentials"]
        return got["AccessKeyId"], got["SecretAccessKey"], got["SessionToken"]


@pytest.fixture(scope="module")
def world(shared_hub: Any) -> World:
    return World(shared_hub)


def refused(code: str, call: Callable[[], Any], status: int | None = None) -> str:
    with pytest.raises(ClientError) as caught:
        call()
    answer = caught.value.response
    assert answer["Error"]["Code"] == code, answer["Error"]
    if status is not None:
        assert answer["ResponseMetadata"]["HTTPStatusCode"] == status
    return str(answer["Error"]["Message"])


ROOT = {"AWS": f"arn:aws:iam::{ACCOUNT}:root"}
ASSUME = {"Action": "sts:AssumeRole"}
LIST = {"Action": "iot:ListThings"}
BUCKETS = {"Action": "s3:ListAllMyBuckets"}


# users and keys


def test_a_user_lives_and_dies(world: World) -> None:
    iam, name = world.iam, world.name("user")
    made = iam.create_user(UserName=name, Path="/ops/", Tags=[{"Key": "team", "Value": "a"}])["User"]
    assert (made["Arn"], made["UserId"][:4]) == (f"{IAM}user/ops/{name}", "AIDA")
    assert iam.get_user(UserName=name)["User"] == made
    assert name in [user["UserName"] for user in iam.list_users(PathPrefix="/ops/")["Users"]]
    assert iam.list_user_tags(UserName=name)["Tags"] == [{"Key": "team", "Value": "a"}]
    iam.tag_user(UserName=name, Tags=[{"Key": "team", "Value": "b"}, {"Key": "x", "Value": ""}])
    iam.untag_user(UserName=name, TagKeys=["x"])
    assert iam.list_user_tags(UserName=name)["Tags"] == [{"Key": "team", "Value": "b"}]
    refused("EntityAlreadyExists", lambda: iam.create_user(UserName=name.upper()), 409)
    iam.update_user(UserName=name, NewUserName=f"{name}-new", NewPath="/")
    assert iam.get_user(UserName=f"{name}-new")["User"]["UserId"] == made["UserId"]
    refused("NoSuchEntity", lambda: iam.get_user(UserName=name), 404)
    key = iam.create_access_key(UserName=f"{name}-new")["AccessKey"]
    refused("DeleteConflict", lambda: iam.delete_user(UserName=f"{name}-new"), 409)
    iam.delete_access_key(UserName=f"{name}-new", AccessKeyId=key["AccessKeyId"])
    iam.put_user_policy(UserName=f"{name}-new", PolicyName="p", PolicyDocument=document(LIST))
    refused("DeleteConflict", lambda: iam.delete_user(UserName=f"{name}-new"), 409)
    iam.delete_user_policy(UserName=f"{name}-new", PolicyName="p")
    iam.delete_user(UserName=f"{name}-new")
    refused("NoSuchEntity", lambda: iam.delete_user(UserName=f"{name}-new"), 404)


def test_keys_rotate_and_an_inactive_one_is_refused(world: World) -> None:
    name, old = world.user(LIST)
    new = world.key(name)
    refused("LimitExceeded", lambda: world.iam.create_access_key(UserName=name), 409)
    assert world.client("iot", new).list_things()["things"] is not None
    world.iam.update_access_key(UserName=name, AccessKeyId=old[0], Status="Inactive")
    refused("UnrecognizedClientException", lambda: world.client("iot", old).list_things(), 403)
    listed = world.iam.list_access_keys(UserName=name)["AccessKeyMetadata"]
    assert {row["AccessKeyId"]: row["Status"] for row in listed} == {old[0]: "Inactive", new[0]: "Active"}
    world.iam.update_access_key(UserName=name, AccessKeyId=old[0], Status="Active")
    world.client("iot", old).list_things()
    world.iam.delete_access_key(UserName=name, AccessKeyId=old[0])
    refused("UnrecognizedClientException", lambda: world.client("iot", old).list_things(), 403)


def test_when_a_key_was_used_last(world: World) -> None:
    name, key = world.user(LIST)
    before = world.iam.get_access_key_last_used(AccessKeyId=key[0])
    assert before["UserName"] == name
    assert before["AccessKeyLastUsed"] == {"ServiceName": "N/A", "Region": "N/A"}
    world.client("iot", key).list_things()
    after = world.iam.get_access_key_last_used(AccessKeyId=key[0])["AccessKeyLastUsed"]
    assert (after["ServiceName"], after["Region"]) == ("iot", "local-1")
    assert after["LastUsedDate"].year >= 2024


def test_lists_come_in_pages_by_marker(world: World) -> None:
    prefix = f"/{world.name('paged')}/"
    names = [world.name("user") for _ in range(5)]
    for name in names:
        world.iam.create_user(UserName=name, Path=prefix)
    first = world.iam.list_users(PathPrefix=prefix, MaxItems=2)
    assert (len(first["Users"]), first["IsTruncated"]) == (2, True)
    pages = list(world.iam.get_paginator("list_users").paginate(PathPrefix=prefix, PaginationConfig={"PageSize": 2}))
    assert sorted(user["UserName"] for page in pages for user in page["Users"]) == sorted(names)
    assert pages[-1]["IsTruncated"] is False and "Marker" not in pages[-1]
    refused("ValidationError", lambda: world.iam.list_users(Marker="c29tZSBvdGhlcg=="))
    every = world.iam.get_paginator("list_policies").paginate(PaginationConfig={"PageSize": 4}).build_full_result()
    found = [policy["PolicyName"] for policy in every["Policies"]]
    assert len(found) == len(set(found)) and "AdministratorAccess" in found


FULL = "arn:aws:iam::aws:policy/IAMFullAccess"


def put(iam: Any, text: str) -> None:
    iam.put_user_policy(UserName="admin", PolicyName="p", PolicyDocument=text)


def role(iam: Any, trusted: str, **more: Any) -> None:
    iam.create_role(RoleName="r", AssumeRolePolicyDocument=trusted, **more)


BAD: list[tuple[str, str, int, Callable[[Any], Any]]] = [
    ("no JSON", "MalformedPolicyDocument", 400, lambda iam: put(iam, "{")),
    ("unknown operator", "MalformedPolicyDocument", 400,
     lambda iam: put(iam, document({"Action": "a:B", "Condition": {"StringIs": {"aws:username": "x"}}}))),
    ("unknown key", "MalformedPolicyDocument", 400,
     lambda iam: put(iam, document({"Action": "a:B", "Condition": {"StringEquals": {"aws:Moon": "x"}}}))),
    ("resource is no ARN", "MalformedPolicyDocument", 400, lambda iam: put(iam, document({"Action": "a:B", "Resource": "x"}))),
    ("over 2,048", "LimitExceeded", 409, lambda iam: put(iam, document({"Action": ["iot:" + "A" * 2100]}))),
    ("no such inline policy", "NoSuchEntity", 404, lambda iam: iam.get_user_policy(UserName="admin", PolicyName="no")),
    ("no such policy", "NoSuchEntity", 404, lambda iam: iam.attach_user_policy(UserName="admin", PolicyArn=f"{IAM}policy/no")),
    ("not attached", "NoSuchEntity", 404, lambda iam: iam.detach_user_policy(UserName="admin", PolicyArn=FULL)),
    ("no such key", "NoSuchEntity", 404, lambda iam: iam.delete_access_key(UserName="admin", AccessKeyId="A" * 20)),
    ("no such version", "NoSuchEntity", 404, lambda iam: iam.get_policy_version(PolicyArn=FULL, VersionId="v2")),
    ("no version", "ValidationError", 400, lambda iam: iam.get_policy_version(PolicyArn=FULL, VersionId="v01")),
    ("built in", "InvalidInput", 400,
     lambda iam: iam.create_policy_version(PolicyArn=FULL, PolicyDocument=document(LIST))),
    ("built-in role", "UnmodifiableEntity", 400,
     lambda iam: iam.put_role_policy(RoleName="marram-service", PolicyName="p", PolicyDocument=document(LIST))),
    ("groups", "NotImplementedException", 501, lambda iam: iam.create_group(GroupName="g")),
    ("boundaries", "NotImplementedException", 501, lambda iam: iam.create_user(UserName="x", PermissionsBoundary=FULL)),
    ("a space in a name", "ValidationError", 400, lambda iam: iam.create_user(UserName="a b")),
    ("tags twice", "InvalidInput", 400,
     lambda iam: iam.create_user(UserName="x", Tags=[{"Key": "a", "Value": ""}, {"Key": "A", "Value": ""}])),
    ("trust in nobody", "MalformedPolicyDocument", 400, lambda iam: role(iam, trust({"AWS": f"{IAM}user/nobody"}))),
    ("another account", "MalformedPolicyDocument", 400,
     lambda iam: role(iam, trust({"AWS": "arn:aws:iam::123456789012:root"}))),
    ("another service", "MalformedPolicyDocument", 400, lambda iam: role(iam, trust({"Service": "ec2.amazonaws.com"}))),
    ("federated", "MalformedPolicyDocument", 400, lambda iam: role(iam, trust({"Federated": "accounts.example.org"}))),
    ("no principal", "MalformedPolicyDocument", 400, lambda iam: role(iam, document(ASSUME))),
    ("another action", "MalformedPolicyDocument", 400, lambda iam: role(iam, trust("*", Action="s3:GetObject"))),
    ("too long", "ValidationError", 400, lambda iam: role(iam, trust(ROOT), MaxSessionDuration=43201)),
]  # fmt: skip


@pytest.mark.parametrize(("code", "status", "call"), [pytest.param(*row[1:], id=row[0]) for row in BAD])
def test_bad_requests_have_iam_s_codes(world: World, code: str, status: int, call: Callable[[Any], Any]) -> None:
    refused(code, lambda: call(world.iam), status)


def test_managed_policies_have_versions(world: World) -> None:
    iam, (name, key) = world.iam, world.user()
    policy = iam.create_policy(PolicyName=world.name("policy"), PolicyDocument=document(LIST))["Policy"]
    arn = policy["Arn"]
    assert (policy["DefaultVersionId"], policy["AttachmentCount"]) == ("v1", 0)
    iam.attach_user_policy(UserName=name, PolicyArn=arn)
    assert iam.get_policy(PolicyArn=arn)["Policy"]["AttachmentCount"] == 1
    things = world.client("iot", key)
    things.list_things()
    iam.create_policy_version(PolicyArn=arn, PolicyDocument=document(BUCKETS), SetAsDefault=True)
    refused("AccessDeniedException", things.list_things, 403)  # in force with the answer
    assert iam.get_policy_version(PolicyArn=arn, VersionId="v2")["PolicyVersion"]["Document"]["Statement"][0]["Action"]
    refused("DeleteConflict", lambda: iam.delete_policy_version(PolicyArn=arn, VersionId="v2"), 409)
    refused("DeleteConflict", lambda: iam.delete_policy(PolicyArn=arn), 409)
    iam.set_default_policy_version(PolicyArn=arn, VersionId="v1")
    things.list_things()
    iam.delete_policy_version(PolicyArn=arn, VersionId="v2")
    assert [row["VersionId"] for row in iam.list_policy_versions(PolicyArn=arn)["Versions"]] == ["v1"]
    assert iam.list_entities_for_policy(PolicyArn=arn)["PolicyUsers"][0]["UserName"] == name
    iam.detach_user_policy(UserName=name, PolicyArn=arn)
    refused("AccessDeniedException", things.list_things, 403)
    iam.delete_policy(PolicyArn=arn)
    refused("NoSuchEntity", lambda: iam.get_policy(PolicyArn=arn), 404)


def test_simulation_says_what_would_be(world: World) -> None:
    name, _ = world.user(LIST, {"Effect": "Deny", "Action": "iot:DeleteThing"})
    found = world.iam.simulate_principal_policy(
        PolicySourceArn=f"{IAM}user/{name}",
        ActionNames=["iot:ListThings", "iot:DeleteThing", "iot:CreateThing", "s3:GetObject"],
        PolicyInputList=[
            document({"Action": "s3:GetObject", "Condition": {"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}}})
        ],
        ContextEntries=[{"ContextKeyName": "aws:SourceIp", "ContextKeyValues": ["10.1.1.1"], "ContextKeyType": "ip"}],
    )["EvaluationResults"]
    assert [row["EvalDecision"] for row in found] == ["allowed", "explicitDeny", "implicitDeny", "allowed"]


# denials


def test_a_denial_names_who_what_where_and_why(world: World) -> None:
    name, key = world.user({"Effect": "Deny", "Action": "iot:DescribeThing"}, {"Action": "iot:List*"})
    who = f"User: {IAM}user/{name} is not authorized to perform: "
    thing = f"arn:aws:iot:local-1:{ACCOUNT}:thing/t"
    iot = world.client("iot", key)
    assert refused("AccessDeniedException", lambda: iot.describe_thing(thingName="t"), 403) == (
        f"{who}iot:DescribeThing on resource: {thing} with an explicit deny in an identity-based policy"
    )
    assert refused("AccessDeniedException", lambda: iot.create_thing(thingName="t"), 403) == (
        f"{who}iot:CreateThing on resource: {thing} because no identity-based policy allows the iot:CreateThing action"
    )


@pytest.mark.parametrize(
    ("condition", "allowed"),
    [
        pytest.param({"IpAddress": {"aws:SourceIp": "127.0.0.0/8"}}, True, id="address"),
        pytest.param({"NotIpAddress": {"aws:SourceIp": "127.0.0.0/8"}}, False, id="not this address"),
        pytest.param({"DateGreaterThan": {"aws:CurrentTime": "2020-01-01T00:00:00Z"}}, True, id="time"),
        pytest.param({"DateLessThan": {"aws:CurrentTime": "2020-01-01T00:00:00Z"}}, False, id="time past"),
        pytest.param({"NumericGreaterThan": {"aws:EpochTime": "1"}}, True, id="number"),
        pytest.param({"StringLike": {"aws:username": "user-*"}}, True, id="like"),
        pytest.param({"StringEquals": {"aws:username": "somebody"}}, False, id="somebody else"),
        pytest.param({"ArnLike": {"aws:PrincipalArn": f"{IAM}user/user-*"}}, True, id="ARN"),
        pytest.param({"Bool": {"aws:SecureTransport": "true"}}, False, id="not over TLS"),
        pytest.param({"Bool": {"aws:SecureTransport": "true"}, "StringLike": {"aws:username": "*"}}, False, id="both"),
        pytest.param({"Null": {"aws:TokenIssueTime": "true"}}, True, id="no temporary credentials"),
    ],
)
def test_conditions(world: World, condition: dict[str, Any], allowed: bool) -> None:
    _, key = world.user({**LIST, "Condition": condition})
    if allowed:
        world.client("iot", key).list_things()
    else:
        refused("AccessDeniedException", lambda: world.client("iot", key).list_things(), 403)


# roles


def test_a_role_is_assumed_and_its_policy_holds_on_every_service(world: World) -> None:
    _, key = world.user(ASSUME)
    name, arn = world.role(
        trust(ROOT), BUCKETS, LIST, {"Action": "iot:Publish", "Resource": "arn:aws:iot:*:*:topic/ok"}
    )
    session = world.assume(key, arn)
    who = world.client("sts", session).get_caller_identity()
    assert who["Arn"] == f"arn:aws:sts::{ACCOUNT}:assumed-role/{name}/s1"
    assert who["UserId"].startswith("AROA") and who["UserId"].endswith(":s1")
    world.client("s3", session).list_buckets()
    world.client("iot", session).list_things()
    world.client("iot-data", session).publish(topic="ok", payload=b"x")
    refused("ForbiddenException", lambda: world.client("iot-data", session).publish(topic="no", payload=b"x"), 403)
    refused("AccessDenied", lambda: world.client("s3", session).create_bucket(Bucket="refused-bucket"), 403)
    refused("AccessDeniedException", lambda: world.client("greengrassv2", session).list_components(), 403)
    refused("AccessDenied", lambda: world.client("iam", session).list_users(), 403)


def test_a_session_policy_only_narrows(world: World) -> None:
    _, key = world.user(ASSUME)
    _, arn = world.role(trust(ROOT), BUCKETS, LIST)
    narrowed = world.assume(key, arn, Policy=document(LIST, {"Action": "iam:*"}))
    world.client("iot", narrowed).list_things()
    message = refused("AccessDenied", lambda: world.client("s3", narrowed).list_buckets(), 403)
    assert message.endswith("because no session policy allows the s3:ListAllMyBuckets action")
    refused("AccessDenied", lambda: world.client("iam", narrowed).list_users(), 403)
    by_arn = world.assume(key, arn, PolicyArns=[{"arn": "arn:aws:iam::aws:policy/AmazonS3ReadOnlyAccess"}])
    world.client("s3", by_arn).list_buckets()
    refused("AccessDeniedException", lambda: world.client("iot", by_arn).list_things(), 403)
    refused("MalformedPolicyDocument", lambda: world.assume(key, arn, Policy="{}"), 400)
    refused("ValidationError", lambda: world.assume(key, arn, PolicyArns=[{"arn": f"{IAM}policy/nope-nope"}]), 400)


def test_a_role_is_for_whom_its_trust_policy_names(world: World) -> None:
    name, key = world.user()  # without any right
    _, stranger = world.user(ASSUME)
    _, arn = world.role(trust({"AWS": f"{IAM}user/{name}"}), LIST)
    world.client("iot", world.assume(key, arn)).list_things()
    message = refused("AccessDenied", lambda: world.assume(stranger, arn), 403)
    assert f"is not authorized to perform: sts:AssumeRole on resource: {arn}" in message
    refused("AccessDenied", lambda: world.assume(stranger, f"{IAM}role/no-such-role"), 403)
    # Named by the account alone, the user needs the right as well.
    _, shared = world.role(trust(ROOT), LIST)
    world.assume(stranger, shared)
    refused("AccessDenied", lambda: world.assume(key, shared), 403)
    _, forbidden = world.user({**ASSUME, "Effect": "Deny"})
    refused("AccessDenied", lambda: world.assume(forbidden, shared), 403)


def test_a_user_made_again_is_not_the_one_who_was_trusted(world: World) -> None:
    name, key = world.user()
    _, arn = world.role(trust({"AWS": f"{IAM}user/{name}"}), LIST)
    world.assume(key, arn)
    world.iam.delete_access_key(UserName=name, AccessKeyId=key[0])
    world.iam.delete_user(UserName=name)
    world.iam.create_user(UserName=name)
    refused("AccessDenied", lambda: world.assume(world.key(name), arn), 403)


def test_an_external_id_is_asked_for(world: World) -> None:
    _, key = world.user(ASSUME)
    _, arn = world.role(trust(ROOT, Condition={"StringEquals": {"sts:ExternalId": "fleet-7"}}), LIST)
    refused("AccessDenied", lambda: world.assume(key, arn), 403)
    refused("AccessDenied", lambda: world.assume(key, arn, ExternalId="fleet-8"), 403)
    world.assume(key, arn, ExternalId="fleet-7")


def test_durations(world: World) -> None:
    _, key = world.user(ASSUME)
    _, arn = world.role(trust(ROOT), LIST, MaxSessionDuration=7200)
    world.assume(key, arn, DurationSeconds=7200)
    refused("ValidationError", lambda: world.assume(key, arn, DurationSeconds=7201), 400)
    # A role's credentials that are got with a role's credentials last an hour at most.
    first = world.assume(key, world.role(trust(ROOT), ASSUME)[1])
    world.assume(first, arn, DurationSeconds=3600)
    message = refused("ValidationError", lambda: world.assume(first, arn, DurationSeconds=3601), 400)
    assert "role chaining" in message


def test_what_is_not_supported_is_refused_by_name(world: World) -> None:
    _, key = world.user(ASSUME)
    _, arn = world.role(trust(ROOT), LIST)
    for more in ({"Tags": [{"Key": "a", "Value": "b"}]}, {"SourceIdentity": "anna"}, {"SerialNumber": "GAHT12345678"}):
        message = refused("NotImplementedException", lambda: world.assume(key, arn, **more), 501)  # noqa: B023
        assert next(iter(more)) in message


def test_a_session_token_of_a_user_makes_no_lasting_credentials(world: World) -> None:
    name, key = world.user({"Action": "*"})
    got = world.client("sts", key).get_session_token(DurationSeconds=900)["Credentials"]
    session = (got["AccessKeyId"], got["SecretAccessKey"], got["SessionToken"])
    world.client("iot", session).list_things()
    assert world.client("sts", session).get_caller_identity()["Arn"] == f"{IAM}user/{name}"
    refused("AccessDenied", lambda: world.client("iam", session).create_access_key(UserName=name), 403)
    refused("AccessDenied", lambda: world.client("sts", session).get_session_token(), 403)


# presigned URLs, altered and foreign tokens


def test_a_presigned_url_with_a_token(world: World) -> None:
    _, key = world.user(ASSUME)
    bucket = world.name("presigned")
    world.client("s3").create_bucket(Bucket=bucket)
    world.client("s3").put_object(Bucket=bucket, Key="k", Body=b"hello")
    name, arn = world.role(trust(ROOT), {"Action": "s3:GetObject", "Resource": f"arn:aws:s3:::{bucket}/*"})
    session = world.assume(key, arn)
    url = world.client("s3", session).generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "k"})
    assert "X-Amz-Security-Token=" in url
    with urllib.request.urlopen(url, timeout=10) as answer:
        assert answer.read() == b"hello"
    world.iam.delete_role_policy(RoleName=name, PolicyName="p")
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(url, timeout=10)
    assert caught.value.code == 403
    caught.value.close()


@pytest.mark.parametrize(
    ("service", "call", "code"),
    [
        ("iot", lambda c: c.list_things(), "UnrecognizedClientException"),
        ("s3", lambda c: c.list_buckets(), "InvalidToken"),
        ("iam", lambda c: c.list_users(), "InvalidClientTokenId"),
        ("sts", lambda c: c.get_caller_identity(), "InvalidClientTokenId"),
    ],
)
def test_a_wrong_token_is_refused_in_each_protocol(world: World, service: str, call: Any, code: str) -> None:
    _, key = world.user(ASSUME)
    _, arn = world.role(trust(ROOT), {"Action": "*"})
    one, two = world.assume(key, arn), world.assume(key, arn)
    refused(code, lambda: call(world.client(service, (one[0], one[1], two[2]))))
    refused(code, lambda: call(world.client(service, (one[0], one[1], one[2][:-9] + "AAAAAAAA="))))
    call(world.client(service, one))


# who gets where he should not


def test_the_right_on_ones_own_keys_is_no_right_on_those_of_others(world: World) -> None:
    own = {"Action": "iam:*AccessKey*", "Resource": f"{IAM}user/${{aws:username}}"}
    name, key = world.user(own)
    iam = world.client("iam", key)
    other, _ = world.user({"Action": "*"})
    made = iam.create_access_key()["AccessKey"]  # his own, without saying so
    assert made["UserName"] == name
    for target in ("admin", other):
        refused("AccessDenied", lambda: iam.create_access_key(UserName=target), 403)  # noqa: B023
        foreign = world.iam.list_access_keys(UserName=target)["AccessKeyMetadata"][0]["AccessKeyId"]
        refused("AccessDenied", lambda: iam.delete_access_key(UserName=target, AccessKeyId=foreign), 403)  # noqa: B023
        # As if the key were his own.
        refused("NoSuchEntity", lambda: iam.delete_access_key(AccessKeyId=foreign), 404)  # noqa: B023
        refused(
            "NoSuchEntity", lambda: iam.update_access_key(UserName=name, AccessKeyId=foreign, Status="Inactive"), 404  # noqa: B023
        )  # fmt: skip
    refused(
        "AccessDenied",
        lambda: iam.put_user_policy(UserName=name, PolicyName="p", PolicyDocument=document({"Action": "*"})),
    )
    refused(
        "AccessDenied",
        lambda: iam.attach_user_policy(UserName=name, PolicyArn="arn:aws:iam::aws:policy/AdministratorAccess"),
    )


def test_a_right_on_a_path_is_not_got_by_a_name(world: World) -> None:
    _, key = world.user({"Action": "iam:*", "Resource": f"{IAM}user/team/*"})
    iam, name = world.client("iam", key), world.name("user")
    iam.create_user(UserName=name, Path="/team/")
    iam.get_user(UserName=name)
    refused("AccessDenied", lambda: iam.create_user(UserName=world.name("user")), 403)
    refused("AccessDenied", lambda: iam.get_user(UserName="admin"), 403)
    refused("AccessDenied", lambda: iam.update_user(UserName="admin", NewPath="/team/"), 403)  # from outside
    refused("AccessDenied", lambda: iam.update_user(UserName=name, NewPath="/"), 403)  # to outside


def test_a_role_is_not_handed_over_without_pass_role(world: World) -> None:
    rules = {"Action": "iot:CreateTopicRule"}
    _, key = world.user(rules)
    _, other = world.role(trust({"Service": "iot.amazonaws.com"}), {"Action": "iot:Publish"})
    _, devices = world.role(trust({"Service": "credentials.iot.amazonaws.com"}))
    bare = world.name("rule").replace("-", "_")

    def create(who: tuple[str, str], role_arn: str) -> None:
        action = {"republish": {"topic": "out", "roleArn": role_arn}}
        world.client("iot", who).create_topic_rule(
            ruleName=bare, topicRulePayload={"sql": "SELECT * FROM 'in'", "actions": [action]}
        )

    service_role = f"{IAM}role/marram-service"
    message = refused("AccessDeniedException", lambda: create(key, service_role))
    assert f"iam:PassRole on resource: {service_role}" in message
    passing = {
        "Action": "iam:PassRole",
        "Resource": other,
        "Condition": {"StringEquals": {"iam:PassedToService": "iot.amazonaws.com"}},
    }
    _, may = world.user(rules, passing)
    refused("AccessDeniedException", lambda: create(may, service_role))
    create(may, other)
    world.client("iot").delete_topic_rule(ruleName=bare)
    admin = (world.hub.info["admin"]["access_key_id"], world.hub.info["admin"]["secret_access_key"])
    assert "trust policy" in refused("InvalidRequestException", lambda: create(admin, devices), 400)
    assert "does not exist" in refused("InvalidRequestException", lambda: create(admin, f"{IAM}role/nobody"), 400)


def test_a_rule_may_no_more_than_its_role(world: World, wait_for: Callable[..., Any]) -> None:
    """Else whoever may pass a small role to a rule could publish anywhere, as the hub."""
    _, arn = world.role(
        trust({"Service": "iot.amazonaws.com"}), {"Action": "iot:Publish", "Resource": "arn:aws:iot:*:*:topic/small"}
    )
    name = world.name("rule").replace("-", "_")
    actions = [{"republish": {"topic": topic, "roleArn": arn}} for topic in ("small", "other")]
    world.client("iot").create_topic_rule(
        ruleName=name, topicRulePayload={"sql": f"SELECT * FROM '{name}'", "actions": actions}
    )
    world.client("iot-data").publish(topic=name, qos=1, payload=b"{}")
    marram = Api.from_data(world.hub.data)
    letters = wait_for(
        lambda: marram.marram("rules/ListDeadLetters", {"ruleName": name})["letters"], "a dead letter", 5
    )
    assert len(letters) == 1
    assert f"the role {arn} is not authorized to perform: iot:Publish" in letters[0]["error"]
    assert letters[0]["error"].endswith("topic/other")
    world.client("iot").delete_topic_rule(ruleName=name)


def test_the_session_of_a_deleted_role_ends_at_once(world: World) -> None:
    _, key = world.user(ASSUME)
    name, arn = world.role(trust(ROOT), LIST)
    session = world.assume(key, arn)
    things = world.client("iot", session)
    things.list_things()
    world.iam.delete_role_policy(RoleName=name, PolicyName="p")
    refused("AccessDeniedException", things.list_things, 403)
    world.iam.delete_role(RoleName=name)
    refused("UnrecognizedClientException", things.list_things, 403)
    world.iam.create_role(RoleName=name, AssumeRolePolicyDocument=trust(ROOT))  # another role of the same name
    refused("UnrecognizedClientException", things.list_things, 403)


def test_older_sessions_are_revoked_as_the_console_of_aws_does_it(world: World) -> None:
    _, key = world.user(ASSUME)
    name, arn = world.role(trust(ROOT), LIST)
    session = world.assume(key, arn)
    world.iam.put_role_policy(
        RoleName=name, PolicyName="AWSRevokeOlderSessions",
        PolicyDocument=document(
            {"Effect": "Deny", "Action": ["*"], "Condition": {"DateLessThan": {"aws:TokenIssueTime": "2099-01-01T00:00:00Z"}}}
        ),
    )  # fmt: skip
    refused("AccessDeniedException", lambda: world.client("iot", session).list_things(), 403)


@pytest.mark.parametrize("how", ["key inactive", "role deleted", "right taken away"])
def test_a_live_connection_ends_within_two_seconds(world: World, how: str) -> None:
    """A console page, or whatever else speaks MQTT with credentials of ours."""
    everything = {"Action": "iot:*"}
    if how == "key inactive":
        name, held = world.user(everything)
    else:
        name, arn = world.role(trust(ROOT), everything)
        held = world.assume(world.user(ASSUME)[1], arn)
    port = world.hub.port("https")
    query = sigv4.presign(
        sigv4.Credentials(*held[:2]), method="GET", host=f"localhost:{port}", path="/mqtt", region="local-1",
        service="iotdevicegateway", expires_s=300, now_ms=int(time.time() * 1000),
    )  # fmt: skip
    token = f"&X-Amz-Security-Token={quote(held[2], safe='')}" if len(held) > 2 else ""
    client = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id=world.name("page"), transport="websockets")
    client.tls_set_context(ssl.create_default_context(cafile=world.hub.info["ca_file"]))
    client.ws_set_options(path=f"/mqtt?{query}{token}", headers={"Host": f"localhost:{port}"})
    up, down = threading.Event(), threading.Event()
    client.on_connect = lambda _c, _u, _f, code, _p: None if code.is_failure else up.set()
    client.on_disconnect = lambda *_: down.set()
    client.connect("localhost", port, 30)
    client.loop_start()
    try:
        assert up.wait(10) and not down.is_set()
        began = time.monotonic()
        if how == "key inactive":
            world.iam.update_access_key(UserName=name, AccessKeyId=held[0], Status="Inactive")
        else:
            world.iam.delete_role_policy(RoleName=name, PolicyName="p")
            if how == "role deleted":
                world.iam.delete_role(RoleName=name)
        if how == "right taken away":  # the connection may stay; what it does may not
            client.publish("a", b"x", qos=1)
        assert down.wait(2) and time.monotonic() - began < 2
    finally:
        client.disconnect()
        client.loop_stop()


# the credentials provider


def provider(world: World, alias: str, folder: Path, thing: str | None = None) -> tuple[int, dict[str, Any]]:
    context = ssl.create_default_context(cafile=world.hub.info["ca_file"])
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    connection = http.client.HTTPSConnection("localhost", world.hub.port("https"), context=context, timeout=10)
    try:
        headers = {"x-amzn-iot-thingname": thing} if thing else {}
        connection.request("GET", f"/role-aliases/{alias}/credentials", headers=headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read() or b"{}")
    finally:
        connection.close()


def test_a_device_gets_credentials_for_its_certificate(world: World, tmp_path: Path) -> None:
    iot, thing, alias, bucket = world.client("iot"), world.name("thing"), world.name("alias"), world.name("devices")
    iot.create_thing(thingName=thing)
    made = iot.create_keys_and_certificate(setAsActive=True)
    (tmp_path / "cert.pem").write_text(made["certificatePem"])
    (tmp_path / "key.pem").write_text(made["keyPair"]["PrivateKey"])
    own = {"Action": "s3:PutObject", "Resource": f"arn:aws:s3:::{bucket}/${{credentials-iot:ThingName}}/*"}
    name, role_arn = world.role(trust({"Service": "credentials.iot.amazonaws.com"}), own)
    world.client("s3").create_bucket(Bucket=bucket)
    alias_arn = iot.create_role_alias(roleAlias=alias, roleArn=role_arn, credentialDurationSeconds=900)["roleAliasArn"]
    assert alias_arn == f"arn:aws:iot:local-1:{ACCOUNT}:rolealias/{alias}"
    described = iot.describe_role_alias(roleAlias=alias)["roleAliasDescription"]
    assert (described["roleArn"], described["credentialDurationSeconds"], described["owner"]) == (
        role_arn,
        900,
        ACCOUNT,
    )
    refused("ResourceAlreadyExistsException", lambda: iot.create_role_alias(roleAlias=alias, roleArn=role_arn), 409)

    assert provider(world, alias, tmp_path)[0] == 403  # no policy yet
    policy = world.name("policy")
    asking = {"Action": "iot:AssumeRoleWithCertificate", "Resource": alias_arn}
    iot.create_policy(policyName=policy, policyDocument=document(asking))
    iot.attach_policy(policyName=policy, target=made["certificateArn"])
    assert provider(world, alias, tmp_path, thing)[0] == 403  # not attached to the thing it says it is
    iot.attach_thing_principal(thingName=thing, principal=made["certificateArn"])
    assert provider(world, f"{alias}-no", tmp_path, thing)[0] == 403

    status, answer = provider(world, alias, tmp_path, thing)
    assert status == 200
    got = answer["credentials"]
    assert set(got) == {"accessKeyId", "secretAccessKey", "sessionToken", "expiration"}
    assert got["accessKeyId"].startswith("ASIA") and got["expiration"].endswith("Z")
    session = (got["accessKeyId"], got["secretAccessKey"], got["sessionToken"])
    s3 = world.client("s3", session)
    s3.put_object(Bucket=bucket, Key=f"{thing}/a", Body=b"1")
    refused("AccessDenied", lambda: s3.put_object(Bucket=bucket, Key="other/a", Body=b"1"), 403)
    refused("AccessDenied", lambda: s3.get_object(Bucket=bucket, Key=f"{thing}/a"), 403)
    assert world.client("sts", session).get_caller_identity()["Arn"].endswith(f"/{name}/{made['certificateId']}")
    # The policy of the certificate may ask about the thing, too.
    of_a_site = {**asking, "Condition": {"StringEquals": {"iot:Connection.Thing.Attributes[site]": "north"}}}
    iot.create_policy_version(policyName=policy, policyDocument=document(of_a_site), setAsDefault=True)
    assert provider(world, alias, tmp_path, thing)[0] == 403
    iot.update_thing(thingName=thing, attributePayload={"attributes": {"site": "north"}})
    assert (provider(world, alias, tmp_path, thing)[0], provider(world, alias, tmp_path)[0]) == (200, 403)
    iot.set_default_policy_version(policyName=policy, policyVersionId="1")
    # Without the thing's name in the request there is none in the role's policy.
    bare = provider(world, alias, tmp_path)[1]["credentials"]
    anonymous = world.client("s3", (bare["accessKeyId"], bare["secretAccessKey"], bare["sessionToken"]))
    refused("AccessDenied", lambda: anonymous.put_object(Bucket=bucket, Key=f"{thing}/b", Body=b"1"), 403)

    iot.update_certificate(certificateId=made["certificateId"], newStatus="REVOKED")
    assert provider(world, alias, tmp_path, thing)[0] in (401, 403)
    refused("InvalidToken", lambda: s3.put_object(Bucket=bucket, Key=f"{thing}/a", Body=b"1"))  # those got before, too
    iot.delete_role_alias(roleAlias=alias)
    refused("ResourceNotFoundException", lambda: iot.describe_role_alias(roleAlias=alias), 404)


class Tunnel(socketserver.ThreadingTCPServer):
    """A CONNECT proxy that leads wherever it is asked to one port: the SDKs' provider knows no other than 443."""

    allow_reuse_address = daemon_threads = True

    def __init__(self, port: int) -> None:
        self.port = port
        super().__init__(("127.0.0.1", 0), TunnelEnd)


class TunnelEnd(socketserver.StreamRequestHandler):
    server: Tunnel

    def handle(self) -> None:
        asked = self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        assert asked.startswith(b"CONNECT localhost:443 ")
        with socket.create_connection(("127.0.0.1", self.server.port)) as hub:
            self.connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            ends = {self.connection: hub, hub: self.connection}
            while True:
                for end in select.select(list(ends), [], [], 10)[0]:
                    data = end.recv(65536)
                    if not data:
                        return
                    ends[end].sendall(data)


def test_the_provider_of_the_device_sdks(world: World, tmp_path: Path) -> None:
    iot, thing, alias = world.client("iot"), world.name("thing"), world.name("alias")
    made = iot.create_keys_and_certificate(setAsActive=True)
    iot.create_thing(thingName=thing)
    iot.attach_thing_principal(thingName=thing, principal=made["certificateArn"])
    _, arn = world.role(trust({"Service": "credentials.iot.amazonaws.com"}), LIST)
    alias_arn = iot.create_role_alias(roleAlias=alias, roleArn=arn)["roleAliasArn"]
    asking = {"Action": "iot:AssumeRoleWithCertificate", "Resource": alias_arn}
    iot.create_policy(policyName=alias, policyDocument=document(asking))
    iot.attach_policy(policyName=alias, target=made["certificateArn"])
    options = awscrt.io.TlsContextOptions.create_client_with_mtls(
        made["certificatePem"].encode(), made["keyPair"]["PrivateKey"].encode()
    )
    options.override_default_trust_store_from_path(ca_filepath=world.hub.info["ca_file"])
    with Tunnel(world.hub.port("https")) as tunnel:
        threading.Thread(target=tunnel.serve_forever, args=(0.05,), daemon=True).start()
        proxy = awscrt.http.HttpProxyOptions("127.0.0.1", tunnel.server_address[1])
        provider = awscrt.auth.AwsCredentialsProvider.new_x509(
            endpoint="localhost", thing_name=thing, role_alias=alias, tls_ctx=awscrt.io.ClientTlsContext(options),
            http_proxy_options=proxy,
        )  # fmt: skip
        got = provider.get_credentials().result(20)
        tunnel.shutdown()
    world.client("iot", (got.access_key_id, got.secret_access_key, got.session_token)).list_things()


def test_role_aliases_need_a_role_for_devices(world: World) -> None:
    iot = world.client("iot")
    _, people = world.role(trust(ROOT))
    _, short = world.role(trust({"Service": "credentials.iot.amazonaws.com"}))
    refused("InvalidRequestException", lambda: iot.create_role_alias(roleAlias="a", roleArn=people), 400)
    refused(
        "InvalidRequestException", lambda: iot.create_role_alias(roleAlias="a", roleArn=f"{IAM}role/none-of-it"), 400
    )
    refused(
        "InvalidRequestException",
        lambda: iot.create_role_alias(roleAlias="a", roleArn=short, credentialDurationSeconds=43200),
        400,
    )
    refused("ResourceNotFoundException", lambda: iot.update_role_alias(roleAlias="nope", roleArn=short), 404)
    names = [world.name("alias") for _ in range(3)]
    for name in names:
        iot.create_role_alias(roleAlias=name, roleArn=short)
    pages = list(iot.get_paginator("list_role_aliases").paginate(PaginationConfig={"PageSize": 2}))
    found = [name for page in pages for name in page["roleAliases"]]
    assert set(names) <= set(found) and len(found) == len(set(found))
    assert iot.list_role_aliases(ascendingOrder=True)["roleAliases"] == sorted(found)


# aws-cli


@pytest.mark.skipif(AWS is None, reason="aws-cli is not installed")
def test_aws_cli_as_typed_and_a_profile_with_a_role(world: World, tmp_path: Path) -> None:
    admin, endpoint = world.hub.info["admin"], world.hub.info["endpoints"]["api"]
    clean = {key: value for key, value in os.environ.items() if not key.startswith("AWS_")}
    environment = clean | {
        "AWS_CONFIG_FILE": str(tmp_path / "config"), "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials"),
        "AWS_ENDPOINT_URL": endpoint, "AWS_DEFAULT_REGION": "local-1", "AWS_PAGER": "", "HOME": str(tmp_path),
        "PYENV_ROOT": os.environ.get("PYENV_ROOT", str(Path.home() / ".pyenv")),
    }  # fmt: skip
    (tmp_path / "credentials").write_text(
        f"[default]\naws_access_key_id = {admin['access_key_id']}\naws_secret_access_key = {admin['secret_access_key']}\n"
    )
    (tmp_path / "config").write_text("[default]\nregion = local-1\n")

    def aws(*words: str) -> Any:
        assert AWS is not None
        done = subprocess.run([AWS, *words], env=environment, capture_output=True, text=True, timeout=50)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout) if done.stdout.strip().startswith("{") else done.stdout

    user, role = world.name("cli-user"), world.name("cli-role")
    aws("iam", "create-user", "--user-name", user)
    key = aws("iam", "create-access-key", "--user-name", user)["AccessKey"]
    (tmp_path / "trust.json").write_text(trust({"AWS": f"{IAM}user/{user}"}))
    arn = aws(
        "iam", "create-role", "--role-name", role, "--assume-role-policy-document", f"file://{tmp_path}/trust.json"
    )["Role"]["Arn"]
    aws(
        "iam",
        "attach-role-policy",
        "--role-name",
        role,
        "--policy-arn",
        "arn:aws:iam::aws:policy/AWSIoTConfigReadOnlyAccess",
    )
    with (tmp_path / "credentials").open("a") as file:
        file.write(
            f"[{user}]\naws_access_key_id = {key['AccessKeyId']}\naws_secret_access_key = {key['SecretAccessKey']}\n"
        )
    with (tmp_path / "config").open("a") as file:
        file.write(f"[profile reader]\nrole_arn = {arn}\nsource_profile = {user}\nregion = local-1\n")
    assert aws("--profile", "reader", "sts", "get-caller-identity")["Arn"].startswith(
        f"arn:aws:sts::{ACCOUNT}:assumed-role/{role}/"
    )
    assert "things" in aws("--profile", "reader", "iot", "list-things")
