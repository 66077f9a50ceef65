"""Users, keys, roles and temporary credentials, as boto3 sees them."""

import json
from typing import Any

from tests.behaviours.row import row
from tests.behaviours.world import World

LIST = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "iot:ListThings", "Resource": "*"}]}
IOT_FULL = "arn:aws:iam::aws:policy/AWSIoTFullAccess"


def _user(world: World, **options: Any) -> str:
    name = world.name("user")
    world.client("iam").create_user(UserName=name, **options)
    return name


def _trust(principal: Any, **more: Any) -> str:
    statement = {"Effect": "Allow", "Principal": principal, "Action": "sts:AssumeRole", **more}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


def _root(world: World) -> dict[str, str]:
    return {"AWS": f"arn:aws:iam::{world.account}:root"}


def _role(world: World, **options: Any) -> tuple[str, str]:
    name = world.name("role")
    options.setdefault("AssumeRolePolicyDocument", _trust(_root(world)))
    return name, world.client("iam").create_role(RoleName=name, **options)["Role"]["Arn"]


@row(aws="A user's ARN has its path, and its id begins with AIDA.", source="guide: IAM identifiers")
def user_arn(world: World) -> None:
    name = _user(world, Path="/team/")
    found = world.client("iam").get_user(UserName=name)["User"]
    assert found["Arn"] == f"arn:aws:iam::{world.account}:user/team/{name}" and found["UserId"].startswith("AIDA")


@row(
    aws="Names of users are not case-sensitive: the same in capitals is EntityAlreadyExists, 409.",
    source="guide: IAM names",
)
def user_names_fold(world: World) -> None:
    name = _user(world)
    with world.refused("EntityAlreadyExists", 409):
        world.client("iam").create_user(UserName=name.upper())


@row(aws="A user that does not exist is NoSuchEntity, 404.", source="model: GetUser")
def user_unknown(world: World) -> None:
    with world.refused("NoSuchEntity", 404):
        world.client("iam").get_user(UserName=world.name())


@row(aws="A user with an access key is not deleted: DeleteConflict, 409.", source="model: DeleteUser")
def user_with_key(world: World) -> None:
    name = _user(world)
    world.client("iam").create_access_key(UserName=name)
    with world.refused("DeleteConflict", 409):
        world.client("iam").delete_user(UserName=name)


@row(aws="A user with an inline policy is not deleted: DeleteConflict, 409.", source="model: DeleteUser")
def user_with_policy(world: World) -> None:
    name = _user(world)
    world.client("iam").put_user_policy(UserName=name, PolicyName="p", PolicyDocument=json.dumps(LIST))
    with world.refused("DeleteConflict", 409):
        world.client("iam").delete_user(UserName=name)


@row(aws="A third access key of a user is LimitExceeded, 409.", source="guide: IAM quotas")
def third_key(world: World) -> None:
    name = _user(world)
    for _ in range(2):
        world.client("iam").create_access_key(UserName=name)
    with world.refused("LimitExceeded", 409):
        world.client("iam").create_access_key(UserName=name)


@row(aws="The key of one user is not there for another: NoSuchEntity, 404.", source="model: DeleteAccessKey")
def key_of_another(world: World) -> None:
    one, other = _user(world), _user(world)
    key = world.client("iam").create_access_key(UserName=one)["AccessKey"]["AccessKeyId"]
    with world.refused("NoSuchEntity", 404):
        world.client("iam").delete_access_key(UserName=other, AccessKeyId=key)


@row(aws="A key that was never used has ServiceName and Region N/A and no date.", source="model: GetAccessKeyLastUsed")
def key_never_used(world: World) -> None:
    key = world.client("iam").create_access_key(UserName=_user(world))["AccessKey"]["AccessKeyId"]
    found = world.client("iam").get_access_key_last_used(AccessKeyId=key)["AccessKeyLastUsed"]
    assert found == {"ServiceName": "N/A", "Region": "N/A"}


@row(aws="A policy that is no JSON is MalformedPolicyDocument, 400.", source="model: PutUserPolicy")
def malformed_policy(world: World) -> None:
    with world.refused("MalformedPolicyDocument", 400):
        world.client("iam").put_user_policy(UserName=_user(world), PolicyName="p", PolicyDocument="{")


@row(
    aws="Inline policies of a user are at most 2,048 characters together: LimitExceeded, 409.",
    source="guide: IAM quotas",
)
def inline_size(world: World) -> None:
    long = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "iot:" + "A" * 2100, "Resource": "*"}]}
    with world.refused("LimitExceeded", 409):
        world.client("iam").put_user_policy(UserName=_user(world), PolicyName="p", PolicyDocument=json.dumps(long))


@row(aws="A managed policy that is attached is not deleted: DeleteConflict, 409.", source="model: DeletePolicy")
def policy_attached(world: World) -> None:
    iam = world.client("iam")
    arn = iam.create_policy(PolicyName=world.name(), PolicyDocument=json.dumps(LIST))["Policy"]["Arn"]
    iam.attach_user_policy(UserName=_user(world), PolicyArn=arn)
    with world.refused("DeleteConflict", 409):
        iam.delete_policy(PolicyArn=arn)


@row(aws="A sixth version of a managed policy is LimitExceeded, 409.", source="guide: IAM quotas")
def policy_versions(world: World) -> None:
    iam = world.client("iam")
    arn = iam.create_policy(PolicyName=world.name(), PolicyDocument=json.dumps(LIST))["Policy"]["Arn"]
    for _ in range(4):
        iam.create_policy_version(PolicyArn=arn, PolicyDocument=json.dumps(LIST))
    with world.refused("LimitExceeded", 409):
        iam.create_policy_version(PolicyArn=arn, PolicyDocument=json.dumps(LIST))
    iam.delete_policy_version(PolicyArn=arn, VersionId="v5")
    assert (
        iam.create_policy_version(PolicyArn=arn, PolicyDocument=json.dumps(LIST))["PolicyVersion"]["VersionId"] == "v6"
    )


@row(
    aws="The default version of a managed policy is not deleted: DeleteConflict, 409.",
    source="model: DeletePolicyVersion",
)
def policy_default_version(world: World) -> None:
    iam = world.client("iam")
    arn = iam.create_policy(PolicyName=world.name(), PolicyDocument=json.dumps(LIST))["Policy"]["Arn"]
    with world.refused("DeleteConflict", 409):
        iam.delete_policy_version(PolicyArn=arn, VersionId="v1")


@row(aws="Attaching a managed policy twice is fine, and it is listed once.", source="model: AttachUserPolicy")
def attach_twice(world: World) -> None:
    iam, name = world.client("iam"), _user(world)
    for _ in range(2):
        iam.attach_user_policy(UserName=name, PolicyArn=IOT_FULL)
    found = iam.list_attached_user_policies(UserName=name)["AttachedPolicies"]
    assert found == [{"PolicyName": "AWSIoTFullAccess", "PolicyArn": IOT_FULL}]


@row(aws="Detaching what is not attached is NoSuchEntity, 404.", source="model: DetachUserPolicy")
def detach_not_attached(world: World) -> None:
    with world.refused("NoSuchEntity", 404):
        world.client("iam").detach_user_policy(UserName=_user(world), PolicyArn=IOT_FULL)


@row(
    aws="A trust policy that names a user who does not exist is MalformedPolicyDocument, 400.",
    source="guide: principals",
)
def trust_in_nobody(world: World) -> None:
    with world.refused("MalformedPolicyDocument", 400):
        _role(world, AssumeRolePolicyDocument=_trust({"AWS": f"arn:aws:iam::{world.account}:user/{world.name()}"}))


@row(aws="A trust policy has no Resource: MalformedPolicyDocument, 400.", source="guide: trust policies")
def trust_with_resource(world: World) -> None:
    with world.refused("MalformedPolicyDocument", 400):
        _role(world, AssumeRolePolicyDocument=_trust(_root(world), Resource="*"))


@row(aws="A new role lasts an hour a session, and its document comes back as an object.", source="model: CreateRole")
def role_defaults(world: World) -> None:
    name, _ = _role(world)
    found = world.client("iam").get_role(RoleName=name)["Role"]
    assert found["MaxSessionDuration"] == 3600 and found["RoleId"].startswith("AROA")
    assert found["AssumeRolePolicyDocument"]["Statement"][0]["Principal"] == _root(world)


@row(aws="A role with an attached policy is not deleted: DeleteConflict, 409.", source="model: DeleteRole")
def role_with_policy(world: World) -> None:
    name, _ = _role(world)
    world.client("iam").attach_role_policy(RoleName=name, PolicyArn=IOT_FULL)
    with world.refused("DeleteConflict", 409):
        world.client("iam").delete_role(RoleName=name)


@row(aws="Whoever assumed a role is arn:aws:sts::ACCOUNT:assumed-role/ROLE/SESSION.", source="model: AssumeRole")
def assumed_identity(world: World) -> None:
    name, arn = _role(world)
    got = world.client("sts").assume_role(RoleArn=arn, RoleSessionName="night")
    held = got["Credentials"]
    assert got["AssumedRoleUser"]["Arn"] == f"arn:aws:sts::{world.account}:assumed-role/{name}/night"
    assert held["AccessKeyId"].startswith("ASIA")
    who = world.client(
        "sts", aws_access_key_id=held["AccessKeyId"], aws_secret_access_key=held["SecretAccessKey"],
        aws_session_token=held["SessionToken"],
    ).get_caller_identity()  # fmt: skip
    assert (who["Arn"], who["UserId"]) == (got["AssumedRoleUser"]["Arn"], got["AssumedRoleUser"]["AssumedRoleId"])


@row(aws="A role that does not exist is AccessDenied, 403, as one that may not be assumed.", source="observed: sts")
def assume_unknown(world: World) -> None:
    with world.refused("AccessDenied", 403):
        world.client("sts").assume_role(
            RoleArn=f"arn:aws:iam::{world.account}:role/{world.name()}", RoleSessionName="night"
        )


@row(aws="A session longer than the role allows is ValidationError, 400.", source="model: AssumeRole")
def assume_too_long(world: World) -> None:
    _, arn = _role(world)
    with world.refused("ValidationError", 400):
        world.client("sts").assume_role(RoleArn=arn, RoleSessionName="night", DurationSeconds=3601)


@row(aws="Without the external id that the trust policy asks for: AccessDenied, 403.", source="guide: external id")
def external_id(world: World) -> None:
    _, arn = _role(
        world, AssumeRolePolicyDocument=_trust(_root(world), Condition={"StringEquals": {"sts:ExternalId": "a1"}})
    )
    with world.refused("AccessDenied", 403):
        world.client("sts").assume_role(RoleArn=arn, RoleSessionName="night")
    world.client("sts").assume_role(RoleArn=arn, RoleSessionName="night", ExternalId="a1")


@row(
    aws="A role alias lasts an hour unless it says otherwise, and its ARN is .../rolealias/NAME.",
    source="model: CreateRoleAlias",
)
def role_alias(world: World) -> None:
    _, arn = _role(world, AssumeRolePolicyDocument=_trust({"Service": "credentials.iot.amazonaws.com"}))
    name = world.name("alias")
    made = world.iot.create_role_alias(roleAlias=name, roleArn=arn)
    assert made["roleAliasArn"] == world.arn(f"rolealias/{name}")
    found = world.iot.describe_role_alias(roleAlias=name)["roleAliasDescription"]
    assert (found["credentialDurationSeconds"], found["roleArn"]) == (3600, arn)


@row(aws="A role alias is not made twice: ResourceAlreadyExistsException, 409.", source="model: CreateRoleAlias")
def role_alias_again(world: World) -> None:
    _, arn = _role(world, AssumeRolePolicyDocument=_trust({"Service": "credentials.iot.amazonaws.com"}))
    name = world.name("alias")
    world.iot.create_role_alias(roleAlias=name, roleArn=arn)
    with world.refused("ResourceAlreadyExistsException", 409):
        world.iot.create_role_alias(roleAlias=name, roleArn=arn)


@row(
    aws="A wrong access key is UnrecognizedClientException for iot, InvalidClientTokenId for iam.",
    source="observed: boto3",
)
def wrong_key(world: World) -> None:
    wrong = {"aws_access_key_id": "AKIA" + "A" * 16, "aws_secret_access_key": "x", "aws_session_token": None}
    with world.refused("UnrecognizedClientException", 403):
        world.client("iot", **wrong).list_things()
    with world.refused("InvalidClientTokenId", 403):
        world.client("iam", **wrong).list_users()
