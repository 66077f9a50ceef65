"""iot operations on provisioning templates, their versions and claims."""

from typing import Final

from marram.core.errors import Invalid, Unsupported
from marram.hub import tagging
from marram.hub.listing import cut
from marram.hub.provisioning.service import Provisioning, Template
from marram.hub.slice import Call, Params, Result, anything, operation

PAGE: Final = 25


def _template_arn(call: Call, params: Params) -> str:
    return f"arn:aws:iot:{call.region}:{call.account}:provisioningtemplate/{params['templateName']}"


@operation("iot", "CreateProvisioningTemplate", resource=_template_arn)
async def create_provisioning_template(service: Provisioning, call: Call, params: Params) -> Result:
    _no_hook(params)
    made = await service.templates.create(
        params["templateName"],
        kind=params.get("type") or "FLEET_PROVISIONING",
        body=params["templateBody"],
        role=params["provisioningRoleArn"],
        description=params.get("description") or "",
        enabled=bool(params.get("enabled")),
        tags=tagging.read(params),
    )
    return {
        "templateArn": service.templates.arn_of(made.name),
        "templateName": made.name,
        "defaultVersionId": made.default_version,
    }


@operation("iot", "DescribeProvisioningTemplate", resource=_template_arn)
async def describe_provisioning_template(service: Provisioning, call: Call, params: Params) -> Result:
    found, version = await service.templates.get(params["templateName"])
    return {
        **_summary(service, found),
        "defaultVersionId": found.default_version,
        "templateBody": version.body,
        "provisioningRoleArn": found.role,
    }


@operation("iot", "UpdateProvisioningTemplate", resource=_template_arn)
async def update_provisioning_template(service: Provisioning, call: Call, params: Params) -> Result:
    _no_hook(params)
    await service.templates.update(
        params["templateName"],
        description=params.get("description"),
        enabled=params.get("enabled"),
        default_version=params.get("defaultVersionId"),
        role=params.get("provisioningRoleArn"),
    )
    return {}


@operation("iot", "DeleteProvisioningTemplate", resource=_template_arn)
async def delete_provisioning_template(service: Provisioning, call: Call, params: Params) -> Result:
    await service.templates.delete(params["templateName"])
    return {}


@operation("iot", "ListProvisioningTemplates", resource=anything)
async def list_provisioning_templates(service: Provisioning, call: Call, params: Params) -> Result:
    limit = int(params.get("maxResults") or PAGE)
    rows = await service.templates.page(_text(params.get("nextToken")), limit + 1)
    shown, last = cut(rows, limit, lambda row: row.name)
    return {"templates": [_summary(service, row) for row in shown], "nextToken": last}


@operation("iot", "CreateProvisioningTemplateVersion", resource=_template_arn)
async def create_provisioning_template_version(service: Provisioning, call: Call, params: Params) -> Result:
    name, as_default = params["templateName"], bool(params.get("setAsDefault"))
    number = await service.templates.create_version(name, params["templateBody"], as_default=as_default)
    return {
        "templateArn": service.templates.arn_of(name),
        "templateName": name,
        "versionId": number,
        "isDefaultVersion": as_default,
    }


@operation("iot", "DescribeProvisioningTemplateVersion", resource=_template_arn)
async def describe_provisioning_template_version(service: Provisioning, call: Call, params: Params) -> Result:
    found, version = await service.templates.version(params["templateName"], int(params["versionId"]))
    return {
        "versionId": version.version,
        "creationDate": version.created_ms,
        "templateBody": version.body,
        "isDefaultVersion": version.version == found.default_version,
    }


@operation("iot", "DeleteProvisioningTemplateVersion", resource=_template_arn)
async def delete_provisioning_template_version(service: Provisioning, call: Call, params: Params) -> Result:
    await service.templates.delete_version(params["templateName"], int(params["versionId"]))
    return {}


@operation("iot", "ListProvisioningTemplateVersions", resource=_template_arn)
async def list_provisioning_template_versions(service: Provisioning, call: Call, params: Params) -> Result:
    limit, after = int(params.get("maxResults") or PAGE), params.get("nextToken")
    if after is not None and not isinstance(after, int):
        raise Invalid("the page token is not valid")
    found, rows = await service.templates.versions(params["templateName"], after or 0, limit + 1)
    shown, last = cut(rows, limit, lambda row: row.version)
    versions = [
        {
            "versionId": row.version,
            "creationDate": row.created_ms,
            "isDefaultVersion": row.version == found.default_version,
        }
        for row in shown
    ]
    return {"versions": versions, "nextToken": last}


@operation("iot", "CreateProvisioningClaim", resource=_template_arn)
async def create_provisioning_claim(service: Provisioning, call: Call, params: Params) -> Result:
    issued, ends_ms = await service.claims.create_claim(params["templateName"])
    return {
        "certificateId": issued.id,
        "certificatePem": issued.pem,
        "keyPair": {"PublicKey": issued.public_key_pem, "PrivateKey": issued.private_key_pem},
        "expiration": ends_ms,
    }


def _summary(service: Provisioning, template: Template) -> dict[str, object]:
    return {
        "templateArn": service.templates.arn_of(template.name),
        "templateName": template.name,
        "description": template.description,
        "creationDate": template.created_ms,
        "lastModifiedDate": template.modified_ms,
        "enabled": template.enabled,
        "type": template.kind,
    }


def _no_hook(params: Params) -> None:
    if params.get("preProvisioningHook"):
        raise Unsupported("preProvisioningHook: hooks are functions, which Marram does not have yet")


def _text(last: object) -> str:
    return last if isinstance(last, str) else ""
