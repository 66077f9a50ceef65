"""Tags that a resource is made with, of every kind that boto3 gives some: they are there, go with it, and are bounded."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.wire.authority import CertificateAuthority

TAGS = [{"Key": "line", "Value": "7"}, {"Key": "site", "Value": "north hall"}]
DOCUMENT = json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "iot:*", "Resource": "*"}]})
IDENTIFIER = {"CertificateId": {"Ref": "AWS::IoT::Certificate::Id"}}
TEMPLATE = json.dumps(
    {
        "Parameters": {"Serial": {"Type": "String"}},
        "Resources": {
            "thing": {"Type": "AWS::IoT::Thing", "Properties": {"ThingName": {"Ref": "Serial"}}},
            "certificate": {"Type": "AWS::IoT::Certificate", "Properties": IDENTIFIER},
            "policy": {"Type": "AWS::IoT::Policy", "Properties": {"PolicyDocument": DOCUMENT}},
        },
    }
)


class Maker:
    """make[kind](tags) -> (ARN, delete it)."""

    def __init__(self, hub: Any) -> None:
        self.hub, self.iot = hub, hub.client("iot")
        self.role = f"arn:aws:iam::{hub.info['account_id']}:role/marram-service"

    def arn(self, resource: str) -> str:
        return f"arn:aws:iot:{self.hub.info['region']}:{self.hub.info['account_id']}:{resource}"

    def rule(self, tags: list[dict[str, str]]) -> Any:
        text = "&".join(f"{tag['Key']}={tag['Value'].replace(' ', '%20')}" for tag in tags)
        action = {"republish": {"roleArn": self.role, "topic": "out"}}
        payload = {"sql": "SELECT * FROM 'in'", "awsIotSqlVersion": "2016-03-23", "actions": [action]}
        self.iot.create_topic_rule(ruleName="r", topicRulePayload=payload, tags=text)
        return self.arn("rule/r"), lambda: self.iot.delete_topic_rule(ruleName="r")

    def cacert(self, tags: list[dict[str, str]]) -> Any:
        ca = CertificateAuthority()
        code = self.iot.get_registration_code()["registrationCode"]
        made = self.iot.register_ca_certificate(
            caCertificate=ca.pem, verificationCertificate=ca.proof(code), setAsActive=False, tags=tags
        )
        return made["certificateArn"], lambda: self.iot.delete_ca_certificate(certificateId=made["certificateId"])

    def provisioningtemplate(self, tags: list[dict[str, str]]) -> Any:
        made = self.iot.create_provisioning_template(
            templateName="t", templateBody=TEMPLATE, provisioningRoleArn=self.role, tags=tags
        )
        return made["templateArn"], lambda: self.iot.delete_provisioning_template(templateName="t")

    def policy(self, tags: list[dict[str, str]]) -> Any:
        made = self.iot.create_policy(policyName="p", policyDocument=DOCUMENT, tags=tags)
        return made["policyArn"], lambda: self.iot.delete_policy(policyName="p")

    def thinggroup(self, tags: list[dict[str, str]]) -> Any:
        made = self.iot.create_thing_group(thingGroupName="g", tags=tags)
        return made["thingGroupArn"], lambda: self.iot.delete_thing_group(thingGroupName="g")

    def job(self, tags: list[dict[str, str]]) -> Any:
        thing = self.iot.create_thing(thingName="dev")["thingArn"]
        made = self.iot.create_job(jobId="j", targets=[thing], document="{}", tags=tags)
        return made["jobArn"], lambda: self.iot.delete_job(jobId="j", force=True)

    def jobtemplate(self, tags: list[dict[str, str]]) -> Any:
        made = self.iot.create_job_template(jobTemplateId="jt", document="{}", description="d", tags=tags)
        return made["jobTemplateArn"], lambda: self.iot.delete_job_template(jobTemplateId="jt")


@pytest.mark.parametrize(
    "kind", ["rule", "cacert", "provisioningtemplate", "policy", "thinggroup", "job", "jobtemplate"]
)
def test_made_with_tags(shared_hub: Any, wait_for: Callable[..., Any], kind: str) -> None:
    maker = Maker(shared_hub)
    iot, make = maker.iot, getattr(maker, kind)
    with pytest.raises(ClientError) as refused:
        make([{"Key": "aws:mine", "Value": "1"}])
    assert refused.value.response["Error"]["Code"] in ("InvalidRequestException", "InvalidRequest")
    resource, delete = make(TAGS)
    assert iot.list_tags_for_resource(resourceArn=resource)["tags"] == TAGS
    iot.untag_resource(resourceArn=resource, tagKeys=["site"])
    iot.tag_resource(resourceArn=resource, tags=[{"Key": "line", "Value": "8"}])
    assert iot.list_tags_for_resource(resourceArn=resource)["tags"] == [{"Key": "line", "Value": "8"}]
    delete()
    with pytest.raises(ClientError) as refused:
        iot.list_tags_for_resource(resourceArn=resource)
    assert refused.value.response["Error"]["Code"] == "ResourceNotFoundException"
    if kind != "cacert":  # the CA of the next call is another one
        resource, delete = make([])
        assert iot.list_tags_for_resource(resourceArn=resource)["tags"] == []
        delete()
