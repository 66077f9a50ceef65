"""What would be allowed, and why: TestAuthorization, GetEffectivePolicies, ExplainPolicy."""

from typing import Final

from marram.core.errors import Invalid, Unsupported
from marram.core.policy import trace, variables
from marram.hub.identity.api.iam_policies import entity_of
from marram.hub.identity.api.policies import named
from marram.hub.identity.service import Identity, Subject
from marram.hub.slice import Call, Params, Result, anything, operation


def _principal(_call: Call, params: Params) -> str:
    return str(params.get("principal") or "*")


_ACTIONS: Final = {
    "PUBLISH": "iot:Publish",
    "SUBSCRIBE": "iot:Subscribe",
    "RECEIVE": "iot:Receive",
    "CONNECT": "iot:Connect",
}
_DECISIONS: Final = {"allowed": "ALLOWED", "explicit deny": "EXPLICIT_DENY", "implicit deny": "IMPLICIT_DENY"}


@operation("iot", "TestAuthorization", resource=_principal)
async def test_authorization(service: Identity, call: Call, params: Params) -> Result:
    if params.get("cognitoIdentityPoolId"):
        raise Unsupported("TestAuthorization: Cognito identities are not supported")
    principal = params.get("principal")
    add: list[str] = params.get("policyNamesToAdd") or []
    skip: list[str] = params.get("policyNamesToSkip") or []
    if principal is None and not add:
        raise Invalid("TestAuthorization needs principal or policyNamesToAdd")
    certificate_id = service.certificates.of_arn(principal) if principal is not None else None
    subject = service.subjects.hypothetical(certificate_id, params.get("clientId"), add, skip)
    results: list[dict[str, object]] = []
    for info in params["authInfos"]:
        for resource in info["resources"]:
            kind = info.get("actionType")
            if kind not in _ACTIONS:
                raise Invalid("TestAuthorization: actionType must be PUBLISH, SUBSCRIBE, RECEIVE or CONNECT")
            results.append(
                {"authInfo": {"actionType": kind, "resources": [resource]}}
                | _result(service, subject, _ACTIONS[kind], resource)
            )
    return {"authResults": results}


def _result(service: Identity, subject: Subject, action: str, resource: str) -> dict[str, object]:
    """Each effective policy is in one of three lists, by itself: it allows, it denies, or it says nothing of the request."""
    verdict = service.subjects.explain(subject, action, resource)
    effects: dict[str, set[str]] = {policy.name: set() for policy in subject.policies}
    for step in trace.steps(subject.policies, action, resource, subject.attributes, service.subjects.context()):
        if step.applies:
            effects[step.policy].add(step.effect)
    lists: dict[str, list[dict[str, object]]] = {"Allow": [], "Deny": [], "": []}
    for name, found in effects.items():
        lists["Deny" if "Deny" in found else "Allow" if found else ""].append(named(service, name))
    return {
        "allowed": {"policies": lists["Allow"]},
        "denied": {"implicitDeny": {"policies": lists[""]}, "explicitDeny": {"policies": lists["Deny"]}},
        "authDecision": _DECISIONS[verdict.decision],
        "missingContextValues": list(verdict.missing),
    }


@operation("iot", "GetEffectivePolicies", resource=_principal)
async def get_effective_policies(service: Identity, call: Call, params: Params) -> Result:
    if params.get("cognitoIdentityPoolId"):
        raise Unsupported("GetEffectivePolicies: Cognito identities are not supported")
    principal = params.get("principal")
    if principal is None:
        raise Unsupported("GetEffectivePolicies needs principal, the ARN of a certificate")
    subject = service.subjects.hypothetical(service.certificates.of_arn(principal), params.get("thingName"))
    return {
        "effectivePolicies": [
            {**named(service, policy.name), "policyDocument": policy.document.text} for policy in subject.policies
        ]
    }


@operation("marram", "identity/ExplainPolicy", resource=anything)
async def explain_policy(service: Identity, call: Call, params: Params) -> Result:
    principal, client_id = str(params["principal"]), params.get("clientId")
    if principal.startswith("arn:aws:iam:"):
        subject = service.simulated(entity_of(service, principal), ())
    elif principal.startswith("arn:"):
        subject = service.subjects.hypothetical(service.certificates.of_arn(principal), client_id)
    else:
        subject = service.keys.key(principal).subject
        subject = service.subjects.with_client(subject, client_id) if client_id is not None else subject
    action, resource = str(params["action"]), str(params["resource"])
    context = service.subjects.context(variables.context(params.get("context") or {}))
    verdict = service.subjects.explain(subject, action, resource, context)
    steps = trace.steps(subject.policies, action, resource, subject.attributes, context)
    return {
        "allowed": verdict.allowed,
        "decision": verdict.decision,
        "matches": [
            {"policyName": match.policy, "statement": match.statement, "sid": match.sid, "effect": match.effect}
            for match in verdict.matches
        ],
        "missing": list(verdict.missing),
        "policies": [policy.name for policy in subject.policies],
        "why": trace.summary(steps, verdict.decision),
        "statements": [
            {
                "policyName": step.policy,
                "statement": step.statement,
                "sid": step.sid,
                "effect": step.effect,
                "applies": step.applies,
                "why": step.why,
                "values": step.values,
            }
            for step in steps
        ],
    }
