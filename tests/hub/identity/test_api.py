"""The operations with wire names; every result is held against botocore's model by `hub.call`."""

import json

import pytest

from marram.core.errors import Conflict, Denied, Invalid, NotFound
from marram.hub.identity import api
from marram.hub.slice import RawRequest

ARN = "arn:aws:iot:local-1:000000000001:"
DOCUMENT = '{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "iot:Publish", "Resource": "*"}]}'


async def test_life_of_a_certificate(hub):
    made = await hub.call("CreateKeysAndCertificate", setAsActive=True)
    assert made["certificateArn"] == f"{ARN}cert/{made['certificateId']}"
    assert "PRIVATE KEY" in made["keyPair"]["PrivateKey"]
    described = (await hub.call("DescribeCertificate", certificateId=made["certificateId"]))["certificateDescription"]
    assert described["status"] == "ACTIVE"
    assert described["certificatePem"] == made["certificatePem"]
    assert described["ownedBy"] == "000000000001"
    await hub.call("UpdateCertificate", certificateId=made["certificateId"], newStatus="REVOKED")
    described = (await hub.call("DescribeCertificate", certificateId=made["certificateId"]))["certificateDescription"]
    assert (described["status"], described["customerVersion"]) == ("REVOKED", 2)
    await hub.call("DeleteCertificate", certificateId=made["certificateId"])
    with pytest.raises(NotFound):
        await hub.call("DescribeCertificate", certificateId=made["certificateId"])


async def test_a_certificate_is_inactive_unless_asked(hub):
    made = await hub.call("CreateKeysAndCertificate")
    described = await hub.call("DescribeCertificate", certificateId=made["certificateId"])
    assert described["certificateDescription"]["status"] == "INACTIVE"


async def test_life_of_a_policy(hub):
    made = await hub.call("CreatePolicy", policyName="p", policyDocument=DOCUMENT)
    assert made["policyArn"] == f"{ARN}policy/p"
    assert (await hub.call("GetPolicy", policyName="p"))["policyDocument"] == DOCUMENT
    second = await hub.call("CreatePolicyVersion", policyName="p", policyDocument=DOCUMENT, setAsDefault=True)
    assert (second["policyVersionId"], second["isDefaultVersion"]) == ("2", True)
    versions = (await hub.call("ListPolicyVersions", policyName="p"))["policyVersions"]
    assert [(row["versionId"], row["isDefaultVersion"]) for row in versions] == [("2", True), ("1", False)]
    await hub.call("SetDefaultPolicyVersion", policyName="p", policyVersionId="1")
    found = await hub.call("GetPolicyVersion", policyName="p", policyVersionId="1")
    assert found["isDefaultVersion"] is True
    await hub.call("DeletePolicyVersion", policyName="p", policyVersionId="2")
    certificate = (await hub.call("CreateKeysAndCertificate"))["certificateArn"]
    await hub.call("AttachPolicy", policyName="p", target=certificate)
    with pytest.raises(Conflict):
        await hub.call("DeletePolicy", policyName="p")
    assert (await hub.call("ListTargetsForPolicy", policyName="p"))["targets"] == [certificate]
    attached = (await hub.call("ListAttachedPolicies", target=certificate))["policies"]
    assert attached == [{"policyName": "p", "policyArn": f"{ARN}policy/p"}]
    await hub.call("DetachPolicy", policyName="p", target=certificate)
    await hub.call("DetachPolicy", policyName="p", target=certificate)
    await hub.call("DeletePolicy", policyName="p")


async def test_the_older_names(hub):
    await hub.call("CreatePolicy", policyName="p", policyDocument=DOCUMENT)
    certificate = (await hub.call("CreateKeysAndCertificate"))["certificateArn"]
    await hub.call("AttachPrincipalPolicy", policyName="p", principal=certificate)
    assert (await hub.call("ListPolicyPrincipals", policyName="p"))["principals"] == [certificate]
    assert [
        row["policyName"] for row in (await hub.call("ListPrincipalPolicies", principal=certificate))["policies"]
    ] == ["p"]
    await hub.call("DetachPrincipalPolicy", policyName="p", principal=certificate)
    with pytest.raises(NotFound):
        await hub.call("DetachPrincipalPolicy", policyName="p", principal=certificate)
    with pytest.raises(Invalid):
        await hub.call("AttachPrincipalPolicy", policyName="p", principal=f"{ARN}thinggroup/g")


async def test_tags_are_kept(hub):
    tag = {"Key": "a", "Value": "b"}
    await hub.call("CreatePolicy", policyName="p", policyDocument=DOCUMENT, tags=[tag])
    assert (await hub.call("ListTagsForResource", resourceArn=f"{ARN}policy/p"))["tags"] == [tag]


async def pages(hub, operation, items, marker="marker", size="pageSize", next_="nextMarker", **params):
    found, token, count = [], None, 0
    while True:
        answer = await hub.call(operation, **params, **({marker: token} if token else {}), **{size: 3})
        assert len(answer[items]) <= 3
        found += answer[items]
        count += 1
        token = answer.get(next_)
        if token is None:
            return found


@pytest.mark.parametrize("ascending", [True, False])
async def test_lists_come_in_pages_by_age(hub, ascending):
    made = []
    for number in range(8):
        hub.clock.advance(1 if number % 2 else 0)  # two and two of one age
        await hub.call("CreatePolicy", policyName=f"p{number}", policyDocument=DOCUMENT)
        made.append((await hub.call("CreateKeysAndCertificate"))["certificateId"])
    shown = [row["policyName"] for row in await pages(hub, "ListPolicies", "policies", ascendingOrder=ascending)]
    assert shown == sorted((f"p{n}" for n in range(8)), reverse=not ascending)
    certificates = [
        row["certificateId"] for row in await pages(hub, "ListCertificates", "certificates", ascendingOrder=ascending)
    ]
    assert sorted(certificates) == sorted(made)


async def test_a_token_of_another_list_is_refused(hub):
    for number in range(3):
        await hub.call("CreatePolicy", policyName=f"p{number}", policyDocument=DOCUMENT)
    token = (await hub.call("ListPolicies", pageSize=1))["nextMarker"]
    with pytest.raises(Invalid):
        await hub.call("ListCertificates", marker=token)
    with pytest.raises(Invalid):
        await hub.call("ListPolicies", marker=token[:-4] + "AAAA")


async def test_attachments_come_in_pages(hub):
    certificate = (await hub.call("CreateKeysAndCertificate"))["certificateArn"]
    for number in range(7):
        await hub.call("CreatePolicy", policyName=f"p{number}", policyDocument=DOCUMENT)
        await hub.call("AttachPolicy", policyName=f"p{number}", target=certificate)
        await hub.call(
            "AttachPolicy", policyName="p0", target=(await hub.call("CreateKeysAndCertificate"))["certificateArn"]
        )
    assert len(await pages(hub, "ListAttachedPolicies", "policies", target=certificate)) == 7
    targets = await pages(hub, "ListTargetsForPolicy", "targets", policyName="p0")
    assert len(targets) == len(set(targets)) == 8


async def test_attached_policies_of_a_group_with_its_parents(hub):
    await hub.call("CreatePolicy", policyName="a", policyDocument=DOCUMENT)
    await hub.call("CreatePolicy", policyName="b", policyDocument=DOCUMENT)
    await hub.registry.create_group("parent")
    await hub.registry.create_group("child", parent="parent")
    await hub.call("AttachPolicy", policyName="a", target=f"{ARN}thinggroup/parent")
    await hub.call("AttachPolicy", policyName="b", target=f"{ARN}thinggroup/child")
    child = f"{ARN}thinggroup/child"
    assert [row["policyName"] for row in (await hub.call("ListAttachedPolicies", target=child))["policies"]] == ["b"]
    found = (await hub.call("ListAttachedPolicies", target=child, recursive=True))["policies"]
    assert [row["policyName"] for row in found] == ["a", "b"]
    await hub.registry.delete_group("child")
    assert (await hub.call("ListTargetsForPolicy", policyName="b"))["targets"] == []


async def test_what_would_be_allowed(hub):
    own = {"Effect": "Allow", "Action": "iot:Publish", "Resource": f"{ARN}topic/${{iot:Connection.Thing.ThingName}}/*"}
    await hub.policy("own", own)
    await hub.policy("never", {"Effect": "Deny", "Action": "*", "Resource": f"{ARN}topic/t/secret"})
    await hub.certificate("own", thing="t", active=False)  # status does not matter for the question
    principal = (await hub.call("ListThingPrincipals", thingName="t"))["principals"][0]

    async def ask(topic, **more):
        info = {"actionType": "PUBLISH", "resources": [f"{ARN}topic/{topic}"]}
        return (await hub.call("TestAuthorization", principal=principal, authInfos=[info], **more))["authResults"][0]

    allowed = await ask("t/x", clientId="t")
    assert allowed["authDecision"] == "ALLOWED"
    assert [row["policyName"] for row in allowed["allowed"]["policies"]] == ["own"]
    stranger = await ask("t/x")
    assert (stranger["authDecision"], stranger["missingContextValues"]) == (
        "IMPLICIT_DENY",
        ["iot:Connection.Thing.ThingName"],
    )
    denied = await ask("t/secret", clientId="t", policyNamesToAdd=["never"])
    assert denied["authDecision"] == "EXPLICIT_DENY"
    assert (await ask("t/x", clientId="t", policyNamesToSkip=["own"]))["authDecision"] == "IMPLICIT_DENY"
    effective = (await hub.call("GetEffectivePolicies", principal=principal, thingName="t"))["effectivePolicies"]
    assert [row["policyName"] for row in effective] == ["own"]
    explained = await hub.call(
        "identity/ExplainPolicy",
        "marram",
        principal=principal,
        action="iot:Publish",
        resource=f"{ARN}topic/t/x",
        clientId="t",
    )
    assert (explained["allowed"], explained["matches"][0]["policyName"]) == (True, "own")


async def test_who_am_i(hub):
    answer = await hub.call("GetCallerIdentity", "sts")
    assert answer["Account"] == "000000000001"
    assert answer["Arn"] == "arn:aws:iam::000000000001:role/marram-service"


async def test_keys(hub):
    made = await hub.call("identity/CreateKey", "marram", name="ci", policy=DOCUMENT)
    for number in range(4):
        await hub.call("identity/CreateKey", "marram", name=f"k{number}", policy=DOCUMENT)
    first = await hub.call("identity/ListKeys", "marram", maxResults=3)
    second = await hub.call("identity/ListKeys", "marram", maxResults=3, nextToken=first["nextToken"])
    names = [row["name"] for row in first["keys"] + second["keys"]]
    assert names == ["ci", "k0", "k1", "k2", "k3"]
    assert all("secretAccessKey" not in row for row in first["keys"])
    await hub.call("identity/DeleteKey", "marram", accessKeyId=made["accessKeyId"])


def join_request(body: object) -> RawRequest:
    return RawRequest(
        method="POST", path="/marram/join", params={}, query={}, headers={}, subject=None, request_id="r",
        source_ip="127.0.0.1", now_ms=0, body=body if isinstance(body, bytes) else json.dumps(body).encode(),
        authorise=lambda _action, _resource: None,
    )  # fmt: skip


async def test_joining_by_the_route(hub):
    made = await hub.call("identity/CreateJoinToken", "marram", thingName="core")
    response = await api.joining.join(
        hub.identity, join_request({"token": made["token"], "thingName": "core", "names": ["edge.example"]})
    )
    bundle = json.loads(response.body)
    assert bundle["format"] == 1
    assert bundle["certificateId"] in bundle["certificateArn"]


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"{", id="no JSON"),
        pytest.param([], id="no object"),
        pytest.param({"thingName": "core"}, id="no token"),
        pytest.param({"token": 1, "thingName": "core"}, id="token is a number"),
        pytest.param({"token": "mrm1.a.b", "thingName": "core", "admin": True}, id="unknown member"),
        pytest.param({"token": "mrm1.a.b", "thingName": "core", "names": "x"}, id="names is text"),
        pytest.param({"token": "mrm1.a.b", "thingName": "core", "names": ["x"] * 33}, id="too many names"),
        pytest.param({"token": "mrm1.a.b", "thingName": "core", "csrPem": 1}, id="request is a number"),
        pytest.param({"token": "mrm1.a.b", "thingName": "core"}, id="wrong token"),
    ],
)
async def test_bad_join_requests(hub, body):
    with pytest.raises((Invalid, Denied)):
        await api.joining.join(hub.identity, join_request(body))
