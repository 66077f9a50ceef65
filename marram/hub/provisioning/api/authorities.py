"""iot operations on CA certificates: here and not in identity, because a CA may provision by a template."""

from typing import Any, Final

from marram.core.errors import Invalid, Unsupported
from marram.hub import tagging
from marram.hub.identity.service import Authority, Page, pem_of, validity_ms
from marram.hub.listing import cut
from marram.hub.provisioning.service import Provisioning, Registration
from marram.hub.slice import Call, Params, Result, anything, operation

PAGE: Final = 25


def _authority_arn(call: Call, params: Params) -> str:
    name = params.get("certificateId") or params.get("caCertificateId")
    return f"arn:aws:iot:{call.region}:{call.account}:cacert/{name}"


@operation("iot", "GetRegistrationCode", resource=anything)
async def get_registration_code(service: Provisioning, call: Call, params: Params) -> Result:
    return {"registrationCode": await service.authorities.registration_code()}


@operation("iot", "DeleteRegistrationCode", resource=anything)
async def delete_registration_code(service: Provisioning, call: Call, params: Params) -> Result:
    await service.authorities.delete_registration_code()
    return {}


@operation("iot", "RegisterCACertificate", resource=anything)
async def register_ca_certificate(service: Provisioning, call: Call, params: Params) -> Result:
    if params.get("certificateMode") == "SNI_ONLY":
        raise Unsupported("RegisterCACertificate: certificateMode SNI_ONLY is not supported; use DEFAULT")
    if not params.get("verificationCertificate"):
        raise Invalid("RegisterCACertificate: certificateMode DEFAULT needs verificationCertificate")
    made = await service.register_authority(
        params["caCertificate"],
        params["verificationCertificate"],
        active=bool(params.get("setAsActive")),
        is_open=bool(params.get("allowAutoRegistration")),
        registration=_registration(params.get("registrationConfig")),
        tags=tagging.read(params),
    )
    return {"certificateArn": service.authorities.arn_of(made.id), "certificateId": made.id}


@operation("iot", "DescribeCACertificate", resource=_authority_arn)
async def describe_ca_certificate(service: Provisioning, call: Call, params: Params) -> Result:
    found = await service.authorities.authority(params["certificateId"])
    not_before, not_after = validity_ms(found.der)
    configured = {
        "templateBody": found.template_body,
        "roleArn": found.role,
        "templateName": found.template_name,
    }
    return {
        "certificateDescription": {
            **_summary(service, found),
            "certificatePem": pem_of(found.der),
            "ownedBy": call.account,
            "autoRegistrationStatus": "ENABLE" if found.is_open else "DISABLE",
            "lastModifiedDate": found.modified_ms,
            "customerVersion": found.version,
            "generationId": f"{found.id[:32]}-{found.version}",
            "validity": {"notBefore": not_before, "notAfter": not_after},
            "certificateMode": "DEFAULT",
        },
        "registrationConfig": {key: value for key, value in configured.items() if value is not None} or None,
    }


@operation("iot", "UpdateCACertificate", resource=_authority_arn)
async def update_ca_certificate(service: Provisioning, call: Call, params: Params) -> Result:
    wanted = params.get("newAutoRegistrationStatus")
    if wanted not in (None, "ENABLE", "DISABLE"):
        raise Invalid("newAutoRegistrationStatus must be ENABLE or DISABLE")
    await service.update_authority(
        params["certificateId"],
        status=params.get("newStatus"),
        is_open=None if wanted is None else wanted == "ENABLE",
        registration=_registration(params.get("registrationConfig")),
        close=bool(params.get("removeAutoRegistration")),
    )
    return {}


@operation("iot", "DeleteCACertificate", resource=_authority_arn)
async def delete_ca_certificate(service: Provisioning, call: Call, params: Params) -> Result:
    await service.authorities.delete(params["certificateId"])
    return {}


@operation("iot", "ListCACertificates", resource=anything)
async def list_ca_certificates(service: Provisioning, call: Call, params: Params) -> Result:
    asked = _page(params)
    rows = await service.authorities.page(asked, template=params.get("templateName"))
    shown, last = cut(rows, asked.limit - 1, lambda row: [row.created_ms, row.id, asked.ascending])
    return {"certificates": [_summary(service, row) for row in shown], "nextMarker": last}


@operation("iot", "ListCertificatesByCA", resource=_authority_arn)
async def list_certificates_by_ca(service: Provisioning, call: Call, params: Params) -> Result:
    asked = _page(params)
    rows = await service.authorities.leaves(params["caCertificateId"], asked)
    shown, last = cut(rows, asked.limit - 1, lambda row: [row.created_ms, row.id, asked.ascending])
    certificates = [
        {
            "certificateArn": service.authorities.certificate_arn_of(row.id),
            "certificateId": row.id,
            "status": row.status,
            "certificateMode": "DEFAULT",
            "creationDate": row.created_ms,
        }
        for row in shown
    ]
    return {"certificates": certificates, "nextMarker": last}


@operation("iot", "RegisterCertificate", resource=anything)
async def register_certificate(service: Provisioning, call: Call, params: Params) -> Result:
    made = await service.authorities.register(params["certificatePem"], params.get("caCertificatePem"), _status(params))
    return {"certificateArn": service.authorities.certificate_arn_of(made), "certificateId": made}


@operation("iot", "RegisterCertificateWithoutCA", resource=anything)
async def register_certificate_without_ca(service: Provisioning, call: Call, params: Params) -> Result:
    made = await service.authorities.register_alone(params["certificatePem"], _status(params))
    return {"certificateArn": service.authorities.certificate_arn_of(made), "certificateId": made}


def _status(params: Params) -> str:
    status, active = params.get("status"), params.get("setAsActive")
    if status is None:
        return "ACTIVE" if active else "INACTIVE"
    if active is not None and active != (status == "ACTIVE"):
        raise Invalid("setAsActive and status say different things")
    return str(status)


def _registration(given: Any) -> Registration | None:
    if not given:
        return None
    return Registration(
        template_name=given.get("templateName"), template_body=given.get("templateBody"), role=given.get("roleArn")
    )


def _summary(service: Provisioning, authority: Authority) -> dict[str, object]:
    return {
        "certificateArn": service.authorities.arn_of(authority.id),
        "certificateId": authority.id,
        "status": authority.status,
        "creationDate": authority.created_ms,
    }


def _page(params: Params) -> Page:
    shown = int(params.get("pageSize") or PAGE)
    match params.get("marker"):
        case None:
            return Page(limit=shown + 1, ascending=bool(params.get("ascendingOrder")))
        case [int(created_ms), str(key), bool(ascending)]:
            return Page(after=(created_ms, key), limit=shown + 1, ascending=ascending)
        case _:
            raise Invalid("the page token is not valid")
