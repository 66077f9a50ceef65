"""A role that is handed over is asked for, wherever it stands in a request."""

import pytest

from marram.hub.border import passing, plans
from marram.hub.slice import OPERATIONS
from marram.kit import registry

ROLE = "arn:aws:iam::000000000001:role/r"


@pytest.mark.parametrize(
    ("service", "operation", "params"),
    [
        ("iot", "CreateTopicRule", {"topicRulePayload": {"actions": [{"republish": {"roleArn": ROLE, "topic": "a"}}]}}),
        ("iot", "CreateTopicRule", {"topicRulePayload": {"actions": [], "errorAction": {"s3": {"roleArn": ROLE}}}}),
        ("iot", "ReplaceTopicRule", {"topicRulePayload": {"actions": [{"republish": {"roleArn": ROLE}}]}}),
        ("iot", "CreateRoleAlias", {"roleAlias": "a", "roleArn": ROLE}),
        ("iot", "UpdateRoleAlias", {"roleAlias": "a", "roleArn": ROLE}),
        ("iot", "CreateJob", {"presignedUrlConfig": {"roleArn": ROLE}}),
        ("iot", "UpdateJob", {"presignedUrlConfig": {"roleArn": ROLE}}),
        ("iot", "CreateProvisioningTemplate", {"provisioningRoleArn": ROLE}),
        ("iot", "UpdateProvisioningTemplate", {"provisioningRoleArn": ROLE}),
        ("iot", "RegisterCACertificate", {"registrationConfig": {"roleArn": ROLE}}),
        ("iot", "StartThingRegistrationTask", {"roleArn": ROLE}),
        ("sagemaker", "CreateTrainingJob", {"RoleArn": ROLE}),
        ("sagemaker", "CreateLabelingJob", {"RoleArn": ROLE}),
        ("greengrassv2", "AssociateServiceRoleToAccount", {"roleArn": ROLE}),
    ],
)
def test_roles_are_found(service: str, operation: str, params: dict[str, object]) -> None:
    plan = plans.load(service)
    assert passing.roles(plan, plan.operations[operation], params) == [ROLE]


def test_an_alias_gives_its_role_to_the_credentials_provider() -> None:
    plan = plans.load("iot")
    assert passing.service(plan, plan.operations["CreateRoleAlias"]) == "credentials.iot.amazonaws.com"
    assert passing.service(plan, plan.operations["CreateTopicRule"]) == "iot.amazonaws.com"


def test_what_is_no_role_is_not_asked_for() -> None:
    plan = plans.load("iot")
    assert passing.roles(plan, plan.operations["CreateThing"], {"thingName": "roleArn"}) == []
    assert passing.roles(plan, plan.operations["DescribeRoleAlias"], {"roleAlias": ROLE}) == []
    sts = plans.load("sts")
    assert passing.roles(sts, sts.operations["AssumeRole"], {"RoleArn": ROLE}) == []  # taken on, not passed


def test_only_sts_judges_for_itself() -> None:
    registry.discover("marram.hub")
    found = {key for key, operation in OPERATIONS.items() if operation.public}
    assert found == {("sts", "GetCallerIdentity"), ("sts", "AssumeRole"), ("sts", "GetSessionToken")}
    for (service, name), operation in OPERATIONS.items():
        prefix, _, action = operation.action.partition(":")
        assert prefix and action, (service, name)
        if service in ("iam", "sts"):
            assert operation.action == f"{service}:{name}"
