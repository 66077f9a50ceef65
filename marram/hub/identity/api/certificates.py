"""iot operations on certificates."""

from marram.core import arn
from marram.hub.identity import pki
from marram.hub.identity.api import pages
from marram.hub.identity.service import Identity
from marram.hub.identity.store import Certificate
from marram.hub.slice import Call, Params, Result, anything, operation


def _certificate_arn(call: Call, params: Params) -> str:
    return arn.build("iot", call.region, call.account, f"cert/{params['certificateId']}")


@operation("iot", "CreateKeysAndCertificate", resource=anything)
async def create_keys_and_certificate(service: Identity, call: Call, params: Params) -> Result:
    issued = await service.certificates.create(active=bool(params.get("setAsActive")))
    return {
        "certificateArn": service.certificates.arn_of(issued.id),
        "certificateId": issued.id,
        "certificatePem": issued.pem,
        "keyPair": {"PublicKey": issued.public_key_pem, "PrivateKey": issued.private_key_pem},
    }


@operation("iot", "CreateCertificateFromCsr", resource=anything)
async def create_certificate_from_csr(service: Identity, call: Call, params: Params) -> Result:
    request = str(params["certificateSigningRequest"])
    issued = await service.certificates.create(request, active=bool(params.get("setAsActive")))
    return {
        "certificateArn": service.certificates.arn_of(issued.id),
        "certificateId": issued.id,
        "certificatePem": issued.pem,
    }


@operation("iot", "DescribeCertificate", resource=_certificate_arn)
async def describe_certificate(service: Identity, call: Call, params: Params) -> Result:
    found = await service.certificates.certificate(params["certificateId"])
    not_before, not_after = pki.validity_ms(found.der)
    return {
        "certificateDescription": {
            **_summary(service, found),
            "caCertificateId": service.authorities.authority_of(found.id),
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
    asked = pages.by_age(params)
    rows = await service.certificates.page(asked)
    shown, last = pages.cut(rows, asked.limit - 1, lambda row: [row.created_ms, row.id, asked.ascending])
    return {"certificates": [_summary(service, row) for row in shown], "nextMarker": last}


@operation("iot", "UpdateCertificate", resource=_certificate_arn)
async def update_certificate(service: Identity, call: Call, params: Params) -> Result:
    await service.certificates.set_status(params["certificateId"], params["newStatus"])
    return {}


@operation("iot", "DeleteCertificate", resource=_certificate_arn)
async def delete_certificate(service: Identity, call: Call, params: Params) -> Result:
    await service.certificates.delete(params["certificateId"], force=bool(params.get("forceDelete")))
    return {}


def _summary(service: Identity, certificate: Certificate) -> dict[str, object]:
    return {
        "certificateArn": service.certificates.arn_of(certificate.id),
        "certificateId": certificate.id,
        "status": certificate.status,
        "certificateMode": "DEFAULT",
        "creationDate": certificate.created_ms,
    }
