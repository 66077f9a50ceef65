"""iot operations on certificates and policies, sts GetCallerIdentity, our own on keys and joining."""

from collections.abc import Mapping, Sequence
from typing import Final

from marram.core import arn, codec
from marram.core.codec import JsonValue
from marram.core.errors import Invalid, NotFound, Unsupported
from marram.hub.identity import pki
from marram.hub.identity.service import Certificate, Identity, Page, Policy
from marram.hub.listing import page
from marram.hub.slice import (
    Call,
    Params,
    RawRequest,
    RawResponse,
    Result,
    anything,
    operation,
    route,
)

PAGE: Final = 25
MAX_JOIN_BYTES: Final = 64 << 10


def _certificate_arn(call: Call, params: Params) -> str:
    return arn.build("iot", call.region, call.account, f"cert/{params['certificateId']}")


def _policy_arn(call: Call, params: Params) -> str:
    return arn.build("iot", call.region, call.account, f"policy/{params['policyName']}")


def _target(_call: Call, params: Params) -> str:
    return str(params["target"])


def _principal(_call: Call, params: Params) -> str:
    return str(params.get("principal") or "*")


# certificates


@operation("iot", "CreateKeysAndCertificate", resource=anything)
async def create_keys_and_certificate(service: Identity, call: Call, params: Params) -> Result:
    issued = await service.create_certificate(active=bool(params.get("setAsActive")))
    return {
        "certificateArn": service.arn_of(issued.id),
        "certificateId": issued.id,
        "certificatePem": issued.pem,
        "keyPair": {"PublicKey": issued.public_key_pem, "PrivateKey": issued.private_key_pem},
    }


@operation("iot", "CreateCertificateFromCsr", resource=anything)
async def create_certificate_from_csr(service: Identity, call: Call, params: Params) -> Result:
    request = str(params["certificateSigningRequest"])
    issued = await service.create_certificate(request, active=bool(params.get("setAsActive")))
    return {
        "certificateArn": service.arn_of(issued.id),
        "certificateId": issued.id,
        "certificatePem": issued.pem,
    }


@operation("iot", "DescribeCertificate", resource=_certificate_arn)
async def describe_certificate(service: Identity, call: Call, params: Params) -> Result:
    found = await service.certificate(params["certificateId"])
    not_before, not_after = pki.validity_ms(found.der)
    return {
        "certificateDescription": {
            **_summary(service, found),
            "certificatePem": pki.pem_of(found.der),
            "ownedBy": call.account,
            "lastModifiedDate": found.modified_ms,
            "customerVersion": found.version,
            "generationId": f"{found.id[:32]}-{found.version}",
            "validity": {"notBefore": not_before, "notAfter": not_after},
        }
    }


@operation("iot", "ListCertificates", resource=anything)
async def list_certificates(service: Identity, call: Call, params: Params) -> Result:
    asked = _page(service, "ListCertificates", params)
    rows = await service.certificates(asked)
    shown, token = page(
        service.pages, "ListCertificates", rows, asked.limit - 1, lambda row: _last(asked, row.created_ms, row.id)
    )
    return {"certificates": [_summary(service, row) for row in shown], "nextMarker": token}


@operation("iot", "UpdateCertificate", resource=_certificate_arn)
async def update_certificate(service: Identity, call: Call, params: Params) -> Result:
    await service.set_status(params["certificateId"], params["newStatus"])
    return {}


@operation("iot", "DeleteCertificate", resource=_certificate_arn)
async def delete_certificate(service: Identity, call: Call, params: Params) -> Result:
    await service.delete_certificate(params["certificateId"], force=bool(params.get("forceDelete")))
    return {}


def _summary(service: Identity, certificate: Certificate) -> dict[str, object]:
    return {
        "certificateArn": service.arn_of(certificate.id),
        "certificateId": certificate.id,
        "status": certificate.status,
        "certificateMode": "DEFAULT",
        "creationDate": certificate.created_ms,
    }


# policies


@operation("iot", "CreatePolicy", resource=_policy_arn)
async def create_policy(service: Identity, call: Call, params: Params) -> Result:
    if params.get("tags"):
        raise Unsupported("CreatePolicy: tags are not supported")
    name, document = params["policyName"], params["policyDocument"]
    await service.create_policy(name, document)
    return {
        "policyName": name,
        "policyArn": service.policy_arn(name),
        "policyDocument": document,
        "policyVersionId": "1",
    }


@operation("iot", "GetPolicy", resource=_policy_arn)
async def get_policy(service: Identity, call: Call, params: Params) -> Result:
    policy, version = await service.policy(params["policyName"])
    return {
        **_named(service, policy.name),
        "policyDocument": version.document,
        "defaultVersionId": str(policy.default_version),
        "creationDate": policy.created_ms,
        "lastModifiedDate": policy.modified_ms,
        "generationId": _generation(policy),
    }


@operation("iot", "ListPolicies", resource=anything)
async def list_policies(service: Identity, call: Call, params: Params) -> Result:
    asked = _page(service, "ListPolicies", params)
    rows = await service.policies(asked)
    shown, token = page(
        service.pages, "ListPolicies", rows, asked.limit - 1, lambda row: _last(asked, row.created_ms, row.name)
    )
    return {"policies": [_named(service, row.name) for row in shown], "nextMarker": token}


@operation("iot", "DeletePolicy", resource=_policy_arn)
async def delete_policy(service: Identity, call: Call, params: Params) -> Result:
    await service.delete_policy(params["policyName"])
    return {}


@operation("iot", "CreatePolicyVersion", resource=_policy_arn)
async def create_policy_version(service: Identity, call: Call, params: Params) -> Result:
    name, document, as_default = params["policyName"], params["policyDocument"], bool(params.get("setAsDefault"))
    number = await service.create_version(name, document, as_default=as_default)
    return {
        "policyArn": service.policy_arn(name),
        "policyDocument": document,
        "policyVersionId": str(number),
        "isDefaultVersion": as_default,
    }


@operation("iot", "ListPolicyVersions", resource=_policy_arn)
async def list_policy_versions(service: Identity, call: Call, params: Params) -> Result:
    policy, versions = await service.versions(params["policyName"])
    return {
        "policyVersions": [
            {
                "versionId": str(version.version),
                "isDefaultVersion": version.version == policy.default_version,
                "createDate": version.created_ms,
            }
            for version in versions
        ]
    }


@operation("iot", "GetPolicyVersion", resource=_policy_arn)
async def get_policy_version(service: Identity, call: Call, params: Params) -> Result:
    policy, version = await service.version(params["policyName"], params["policyVersionId"])
    return {
        **_named(service, policy.name),
        "policyDocument": version.document,
        "policyVersionId": str(version.version),
        "isDefaultVersion": version.version == policy.default_version,
        "creationDate": version.created_ms,
        "lastModifiedDate": version.created_ms,
        "generationId": _generation(policy),
    }


@operation("iot", "SetDefaultPolicyVersion", resource=_policy_arn)
async def set_default_policy_version(service: Identity, call: Call, params: Params) -> Result:
    await service.set_default_version(params["policyName"], params["policyVersionId"])
    return {}


@operation("iot", "DeletePolicyVersion", resource=_policy_arn)
async def delete_policy_version(service: Identity, call: Call, params: Params) -> Result:
    await service.delete_version(params["policyName"], params["policyVersionId"])
    return {}


@operation("iot", "AttachPolicy", resource=_target)
async def attach_policy(service: Identity, call: Call, params: Params) -> Result:
    await service.attach_policy(params["policyName"], params["target"])
    return {}


@operation("iot", "DetachPolicy", resource=_target)
async def detach_policy(service: Identity, call: Call, params: Params) -> Result:
    await service.detach_policy(params["policyName"], params["target"])
    return {}


@operation("iot", "ListAttachedPolicies", resource=_target)
async def list_attached_policies(service: Identity, call: Call, params: Params) -> Result:
    return await _attached(
        service, "ListAttachedPolicies", params["target"], params, recursive=bool(params.get("recursive"))
    )


@operation("iot", "ListTargetsForPolicy", resource=_policy_arn)
async def list_targets_for_policy(service: Identity, call: Call, params: Params) -> Result:
    shown, token = await _targets(service, "ListTargetsForPolicy", params)
    return {"targets": shown, "nextMarker": token}


# The older names of the same, for certificates


@operation("iot", "AttachPrincipalPolicy", resource=_principal)
async def attach_principal_policy(service: Identity, call: Call, params: Params) -> Result:
    service.certificate_of(params["principal"])
    await service.attach_policy(params["policyName"], params["principal"])
    return {}


@operation("iot", "DetachPrincipalPolicy", resource=_principal)
async def detach_principal_policy(service: Identity, call: Call, params: Params) -> Result:
    service.certificate_of(params["principal"])
    if not await service.detach_policy(params["policyName"], params["principal"]):
        raise NotFound(f"policy {params['policyName']} is not attached to {params['principal']}")
    return {}


@operation("iot", "ListPrincipalPolicies", resource=_principal)
async def list_principal_policies(service: Identity, call: Call, params: Params) -> Result:
    service.certificate_of(params["principal"])
    return await _attached(service, "ListPrincipalPolicies", params["principal"], params)


@operation("iot", "ListPolicyPrincipals", resource=_policy_arn)
async def list_policy_principals(service: Identity, call: Call, params: Params) -> Result:
    shown, token = await _targets(service, "ListPolicyPrincipals", params)
    return {"principals": shown, "nextMarker": token}


async def _attached(service: Identity, name: str, target: str, params: Params, *, recursive: bool = False) -> Result:
    limit = int(params.get("pageSize") or PAGE)
    after = _text(service.pages.last(name, params.get("marker")))
    names = await service.attached_policies(target, after, limit + 1, recursive=recursive)
    shown, token = page(service.pages, name, names, limit, lambda row: row)
    return {"policies": [_named(service, row) for row in shown], "nextMarker": token}


async def _targets(service: Identity, name: str, params: Params) -> tuple[Sequence[str], JsonValue]:
    limit = int(params.get("pageSize") or PAGE)
    after = _text(service.pages.last(name, params.get("marker")))
    found = await service.targets(params["policyName"], after, limit + 1)
    return page(service.pages, name, found, limit, lambda row: arn.parse(row).resource)


# what would be allowed

_ACTIONS = {"PUBLISH": "iot:Publish", "SUBSCRIBE": "iot:Subscribe", "RECEIVE": "iot:Receive", "CONNECT": "iot:Connect"}
_DECISIONS = {"allowed": "ALLOWED", "explicit deny": "EXPLICIT_DENY", "implicit deny": "IMPLICIT_DENY"}


@operation("iot", "TestAuthorization", resource=_principal)
async def test_authorization(service: Identity, call: Call, params: Params) -> Result:
    if params.get("cognitoIdentityPoolId"):
        raise Unsupported("TestAuthorization: Cognito identities are not supported")
    principal = params.get("principal")
    add: list[str] = params.get("policyNamesToAdd") or []
    skip: list[str] = params.get("policyNamesToSkip") or []
    if principal is None and not add:
        raise Invalid("TestAuthorization needs principal or policyNamesToAdd")
    certificate_id = service.certificate_of(principal) if principal is not None else None
    subject = service.test(certificate_id, params.get("clientId"), add, skip)
    results: list[dict[str, object]] = []
    for info in params["authInfos"]:
        for resource in info["resources"]:
            kind = info.get("actionType")
            if kind not in _ACTIONS:
                raise Invalid("TestAuthorization: actionType must be PUBLISH, SUBSCRIBE, RECEIVE or CONNECT")
            verdict = service.explain(subject, _ACTIONS[kind], resource)
            policies = [_named(service, name) for name in dict.fromkeys(match.policy for match in verdict.matches)]
            denied = {"explicitDeny" if verdict.decision == "explicit deny" else "implicitDeny": {"policies": policies}}
            results.append(
                {
                    "authInfo": {"actionType": kind, "resources": [resource]},
                    "allowed": {"policies": policies if verdict.allowed else []},
                    "denied": {} if verdict.allowed else denied,
                    "authDecision": _DECISIONS[verdict.decision],
                    "missingContextValues": list(verdict.missing),
                }
            )
    return {"authResults": results}


@operation("iot", "GetEffectivePolicies", resource=_principal)
async def get_effective_policies(service: Identity, call: Call, params: Params) -> Result:
    if params.get("cognitoIdentityPoolId"):
        raise Unsupported("GetEffectivePolicies: Cognito identities are not supported")
    principal = params.get("principal")
    if principal is None:
        raise Unsupported("GetEffectivePolicies needs principal, the ARN of a certificate")
    subject = service.test(service.certificate_of(principal), params.get("thingName"))
    return {
        "effectivePolicies": [
            {**_named(service, policy.name), "policyDocument": policy.document.text} for policy in subject.policies
        ]
    }


@operation("marram", "identity/ExplainPolicy", resource=anything)
async def explain_policy(service: Identity, call: Call, params: Params) -> Result:
    principal, client_id = str(params["principal"]), params.get("clientId")
    if principal.startswith("arn:"):
        subject = service.test(service.certificate_of(principal), client_id)
    else:
        subject = service.key(principal).subject
        subject = service.with_client(subject, client_id) if client_id is not None else subject
    verdict = service.explain(subject, params["action"], params["resource"])
    return {
        "allowed": verdict.allowed,
        "decision": verdict.decision,
        "matches": [
            {"policyName": match.policy, "statement": match.statement, "sid": match.sid, "effect": match.effect}
            for match in verdict.matches
        ],
        "missing": list(verdict.missing),
        "policies": [policy.name for policy in subject.policies],
    }


# keys


@operation("sts", "GetCallerIdentity", resource=anything, public=True)
async def get_caller_identity(service: Identity, call: Call, params: Params) -> Result:
    return {"UserId": call.subject.principal, "Account": call.account, "Arn": call.subject.arn}


@operation("marram", "identity/CreateKey", resource=anything)
async def create_key(service: Identity, call: Call, params: Params) -> Result:
    made = await service.create_key(params["name"], params["policy"])
    return {"accessKeyId": made.id, "secretAccessKey": made.secret, "name": made.name, "arn": made.subject.arn}


@operation("marram", "identity/ListKeys", resource=anything)
async def list_keys(service: Identity, call: Call, params: Params) -> Result:
    limit = int(params.get("maxResults") or PAGE)
    rows = await service.keys(_text(service.pages.last("ListKeys", params.get("nextToken"))), limit + 1)
    shown, token = page(service.pages, "ListKeys", rows, limit, lambda row: row.name)
    keys = [
        {
            "accessKeyId": row.id,
            "name": row.name,
            "arn": row.arn,
            "policy": row.policy,
            "createdDate": row.created_ms,
        }
        for row in shown
    ]
    return {"keys": keys, "nextToken": token}


@operation("marram", "identity/DeleteKey", resource=anything)
async def delete_key(service: Identity, call: Call, params: Params) -> Result:
    await service.delete_key(params["accessKeyId"])
    return {}


# joining


@operation("marram", "identity/CreateJoinToken", resource=anything)
async def create_join_token(service: Identity, call: Call, params: Params) -> Result:
    token, ends_ms = await service.create_join_token(
        thing=params.get("thingName") or "",
        policy=params.get("policyName") or "",
        life_ms=int(params.get("expiresInSeconds") or 900) * 1000,
    )
    return {"token": token, "expiresDate": ends_ms}


@route("GET", "/marram/ca", auth="none")
async def root_certificate(service: Identity, request: RawRequest) -> RawResponse:
    """The root certificate, PEM: public. A core that joins fetches it before it trusts anything, and checks its fingerprint."""
    return RawResponse(body=service.pki.root_pem.encode(), content_type="application/x-pem-file")


@route("POST", "/marram/join", auth="none")
async def join(service: Identity, request: RawRequest) -> RawResponse:
    """Body {token, thingName, csrPem?, names?}; the answer is the bundle of Identity.join."""
    body = codec.loads_object(request.body, what="join request", max_bytes=MAX_JOIN_BYTES, max_depth=4)
    if unknown := body.keys() - {"token", "thingName", "csrPem", "names"}:
        raise Invalid(f"join request: unknown member {min(unknown)!r}")
    names = body.get("names", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or len(names) > 32:
        raise Invalid("join request: names must be a list of at most 32 host names or addresses")
    bundle = await service.join(
        _string(body, "token"),
        _string(body, "thingName"),
        _string(body, "csrPem") if body.get("csrPem") is not None else None,
        names=[str(name) for name in names],
    )
    return RawResponse(body=codec.dumps(bundle))


def _string(body: Mapping[str, object], name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str):
        raise Invalid(f"join request: {name} must be a string")
    return value


# small things


def _named(service: Identity, name: str) -> dict[str, object]:
    return {"policyName": name, "policyArn": service.policy_arn(name)}


def _generation(policy: Policy) -> str:
    return f"{policy.created_ms}-{policy.last_version}"


def _text(last: object) -> str:
    return last if isinstance(last, str) else ""


def _page(service: Identity, name: str, params: Params) -> Page:
    """Asks for one item more than is shown. The direction is in the token: it cannot turn half way."""
    limit = int(params.get("pageSize") or PAGE)
    last = service.pages.last(name, params.get("marker"))
    match last:
        case None:
            return Page(limit=limit + 1, ascending=bool(params.get("ascendingOrder")))
        case [int(created_ms), str(key), bool(ascending)]:
            return Page(after=(created_ms, key), limit=limit + 1, ascending=ascending)
        case _:
            raise Invalid("the page token is not valid")


def _last(asked: Page, created_ms: int, key: str) -> JsonValue:
    return [created_ms, key, asked.ascending]
