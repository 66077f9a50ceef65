"""Managed policies that are there from the start, under the names that AWS gives to the like.

The documents are ours: they allow what an operator expects from the name, on the services that a hub has. They cannot be
changed, and a later version of Marram may widen them by operations that it adds, as AWS does with its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from marram.core import codec


@dataclass(frozen=True, slots=True, kw_only=True)
class Builtin:
    name: str
    path: str
    description: str
    document: str

    @property
    def arn(self) -> str:
        return f"arn:aws:iam::aws:policy{self.path}{self.name}"

    @property
    def id(self) -> str:
        return "ANPA" + "".join(char for char in self.name.upper() if char.isalnum())[:17].ljust(17, "X")


def _allow(name: str, description: str, actions: Sequence[str], *, path: str = "/") -> Builtin:
    statement = {"Effect": "Allow", "Action": list(actions) if len(actions) > 1 else actions[0], "Resource": "*"}
    document = codec.dumps({"Version": "2012-10-17", "Statement": [statement]}).decode()
    return Builtin(name=name, path=path, description=description, document=document)


_IOT_READ: Final = ("iot:Get*", "iot:List*", "iot:Describe*", "iot:SearchIndex", "iot:TestAuthorization")
_MARRAM_READ: Final = ("marram:Get*", "marram:List*", "marram:Describe*", "marram:Query*", "marram:Explain*")

_ALL: Final = (
    _allow("AdministratorAccess", "Everything on this hub.", ["*"]),
    _allow(
        "ReadOnlyAccess",
        "Reads everything on this hub, objects and shadows included.",
        [
            *_IOT_READ, "iotjobsdata:DescribeJobExecution", "iotjobsdata:GetPendingJobExecutions", "greengrass:Get*",
            "greengrass:List*", "greengrass:Describe*", "s3:Get*", "s3:List*", "sagemaker:List*", "sagemaker:Describe*",
            "iam:Get*", "iam:List*", "iam:Simulate*", *_MARRAM_READ,
        ],
    ),
    _allow("AWSIoTFullAccess", "All of AWS IoT: registry, policies, jobs, rules, messages.", ["iot:*", "iotjobsdata:*"]),
    _allow(
        "AWSIoTDataAccess",
        "The data plane: connect, publish, subscribe, receive, shadows, jobs of things.",
        [
            "iot:Connect", "iot:Publish", "iot:Subscribe", "iot:Receive", "iot:RetainPublish", "iot:GetThingShadow",
            "iot:UpdateThingShadow", "iot:DeleteThingShadow", "iot:ListNamedShadowsForThing", "iot:GetRetainedMessage",
            "iot:ListRetainedMessages",
        ],
    ),
    _allow(
        "AWSIoTConfigAccess",
        "The control plane of AWS IoT: everything but messages and shadows.",
        [
            "iot:Accept*", "iot:Add*", "iot:Associate*", "iot:Attach*", "iot:Cancel*", "iot:Create*", "iot:Delete*",
            "iot:Deprecate*", "iot:Describe*", "iot:Detach*", "iot:Disable*", "iot:Disassociate*", "iot:Enable*",
            "iot:GetBucketsAggregation", "iot:GetCardinality", "iot:GetEffectivePolicies", "iot:GetIndexingConfiguration",
            "iot:GetJobDocument", "iot:GetLoggingOptions", "iot:GetPercentiles", "iot:GetPolicy*", "iot:GetRegistrationCode",
            "iot:GetStatistics", "iot:GetTopicRule*", "iot:GetV2LoggingOptions", "iot:List*", "iot:Register*", "iot:Reject*",
            "iot:Remove*", "iot:Replace*", "iot:SearchIndex", "iot:Set*", "iot:Start*", "iot:Stop*", "iot:TagResource",
            "iot:TestAuthorization", "iot:Transfer*", "iot:UntagResource", "iot:Update*",
        ],
    ),
    _allow("AWSIoTConfigReadOnlyAccess", "Reads the control plane of AWS IoT.", _IOT_READ),
    _allow(
        "AWSIoTThingsRegistration",
        "What bulk registration and provisioning templates do on behalf of their caller.",
        [
            "iot:AddThingToThingGroup", "iot:AttachPolicy", "iot:AttachPrincipalPolicy", "iot:AttachThingPrincipal",
            "iot:CreateCertificateFromCsr", "iot:CreatePolicy", "iot:CreateThing", "iot:DescribeCertificate",
            "iot:DescribeThing", "iot:DescribeThingGroup", "iot:DescribeThingType", "iot:DetachPolicy",
            "iot:DetachThingPrincipal", "iot:GetPolicy", "iot:ListAttachedPolicies", "iot:ListPolicyPrincipals",
            "iot:ListPrincipalPolicies", "iot:ListPrincipalThings", "iot:ListTargetsForPolicy",
            "iot:ListThingGroupsForThing", "iot:ListThingPrincipals", "iot:RegisterCertificate", "iot:RegisterThing",
            "iot:RemoveThingFromThingGroup", "iot:UpdateCertificate", "iot:UpdateThing",
            "iot:UpdateThingGroupsForThing",
        ],
        path="/service-role/",
    ),
    _allow("AWSGreengrassFullAccess", "Components, deployments and core devices.", ["greengrass:*"]),
    _allow("AWSGreengrassReadOnlyAccess", "Reads components, deployments and core devices.", ["greengrass:Get*", "greengrass:List*"]),
    _allow("AmazonS3FullAccess", "All buckets and objects.", ["s3:*"]),
    _allow("AmazonS3ReadOnlyAccess", "Reads all buckets and objects.", ["s3:Get*", "s3:List*", "s3:Describe*"]),
    _allow("AmazonSageMakerFullAccess", "Labelling and training jobs.", ["sagemaker:*"]),
    _allow("IAMFullAccess", "Users, keys, roles and their policies.", ["iam:*"]),
    _allow("IAMReadOnlyAccess", "Reads users, roles and their policies.", ["iam:Get*", "iam:List*", "iam:Simulate*"]),
)  # fmt: skip

BUILTIN: Final[Mapping[str, Builtin]] = {policy.arn: policy for policy in _ALL}
