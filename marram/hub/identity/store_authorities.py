"""The tables of certificates that others signed: registered CAs, their leaves, the registration code; and of claims."""

from dataclasses import dataclass

from marram.hub.identity import store
from marram.hub.identity.store import Certificate
from marram.kit.db import Row, Tx


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """A registered CA. is_open: certificates that it signed are registered when they first connect."""

    id: str
    der: bytes
    subject: str
    status: str
    is_open: bool
    template_name: str | None = None
    template_body: str | None = None
    role: str | None = None
    version: int = 1
    created_ms: int = 0
    modified_ms: int = 0

    @property
    def has_template(self) -> bool:
        return self.template_name is not None or self.template_body is not None


_AUTHORITY = "id, der, subject, status, is_open, template_name, template_body, role, version, created_ms, modified_ms"


# registered CAs


def add(tx: Tx, authority: Authority) -> None:
    tx.execute(
        f"INSERT INTO identity_authority ({_AUTHORITY}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608 - constant
        authority.id, authority.der, authority.subject, authority.status, int(authority.is_open), authority.template_name,
        authority.template_body, authority.role, authority.version, authority.created_ms, authority.modified_ms,
    )  # fmt: skip


def save(tx: Tx, authority: Authority) -> None:
    """What can change of it."""
    tx.execute(
        "UPDATE identity_authority SET status = ?, is_open = ?, template_name = ?, template_body = ?, role = ?, version = ?,"
        " modified_ms = ? WHERE id = ?",
        authority.status, int(authority.is_open), authority.template_name, authority.template_body, authority.role,
        authority.version, authority.modified_ms, authority.id,
    )  # fmt: skip


def get(tx: Tx, authority_id: str) -> Authority | None:
    row = tx.one(f"SELECT {_AUTHORITY} FROM identity_authority WHERE id = ?", authority_id)  # noqa: S608 - constant
    return _authority(row) if row else None


def of_subject(tx: Tx, subject: str) -> list[Authority]:
    rows = tx.all(f"SELECT {_AUTHORITY} FROM identity_authority WHERE subject = ? ORDER BY id", subject)  # noqa: S608 - constant
    return [_authority(row) for row in rows]


def page(
    tx: Tx, after: tuple[int, str] | None, limit: int, *, ascending: bool, template: str | None = None
) -> list[Authority]:
    """In order of creation; `after` is (created_ms, id). template: those that provision by it."""
    way, beyond = ("ASC", ">") if ascending else ("DESC", "<")
    where, values = ["1 = 1"], list[int | str]()
    if template is not None:
        where.append("template_name = ?")
        values.append(template)
    if after is not None:
        where.append(f"(created_ms {beyond} ? OR (created_ms = ? AND id {beyond} ?))")
        values += [after[0], after[0], after[1]]
    sql = f"SELECT {_AUTHORITY} FROM identity_authority WHERE {' AND '.join(where)} ORDER BY created_ms {way}, id {way} LIMIT ?"  # noqa: S608 - constants
    return [_authority(row) for row in tx.all(sql, *values, limit)]


def delete(tx: Tx, authority_id: str) -> None:
    tx.execute("DELETE FROM identity_authority WHERE id = ?", authority_id)


def uses_template(tx: Tx, template: str) -> bool:
    return tx.one("SELECT 1 FROM identity_authority WHERE template_name = ? LIMIT 1", template) is not None


# certificates that they signed


def leaves(
    tx: Tx, authority_id: str, after: tuple[int, str] | None, limit: int, *, ascending: bool
) -> list[Certificate]:
    way, beyond = ("ASC", ">") if ascending else ("DESC", "<")
    clause, values = "", list[int | str]([authority_id])
    if after is not None:
        clause = f" AND (created_ms {beyond} ? OR (created_ms = ? AND id {beyond} ?))"
        values += [after[0], after[0], after[1]]
    rows = tx.all(
        f"SELECT id FROM identity_certificate WHERE authority = ?{clause} ORDER BY created_ms {way}, id {way} LIMIT ?",  # noqa: S608 - constants
        *values,
        limit,
    )
    found = (store.certificate(tx, str(row[0])) for row in rows)
    return [certificate for certificate in found if certificate is not None]


def set_origin(tx: Tx, certificate_id: str, authority_id: str | None, *, anchored: bool) -> None:
    tx.execute(
        "UPDATE identity_certificate SET authority = ?, anchored = ? WHERE id = ?",
        authority_id,
        int(anchored),
        certificate_id,
    )


def authority_of(tx: Tx, certificate_id: str) -> str | None:
    row = tx.one("SELECT authority FROM identity_certificate WHERE id = ?", certificate_id)
    return str(row[0]) if row and row[0] is not None else None


def anchor_leaves(tx: Tx, authority_id: str) -> int:
    """They stay trusted when the CA goes."""
    return tx.execute("UPDATE identity_certificate SET anchored = 1 WHERE authority = ? AND anchored = 0", authority_id)


def anchors(tx: Tx) -> list[bytes]:
    """DER of all that the TLS doors trust beside our own.

    Of several CAs with one name OpenSSL takes any for a certificate that does not say which key has signed it. Where there
    is one like that, its registered brothers are trusted each by itself, and the CAs of that name are not.
    """
    return [bytes(row[0]) for row in tx.all(_ANCHORS)]


_BLIND = (
    "SELECT subject FROM identity_authority GROUP BY subject HAVING count(*) > 1 AND sum(id IN"
    " (SELECT authority FROM identity_certificate WHERE anchored = 1 AND authority IS NOT NULL)) > 0"
)
_ANCHORS = (
    f"SELECT der FROM identity_authority WHERE subject NOT IN ({_BLIND}) UNION ALL"  # noqa: S608 - constants
    " SELECT der FROM identity_certificate WHERE anchored = 1 UNION ALL"
    " SELECT der FROM identity_certificate WHERE anchored = 0 AND authority IN"
    f" (SELECT id FROM identity_authority WHERE subject IN ({_BLIND}))"
)


# the registration code


def registration_code(tx: Tx) -> str | None:
    row = tx.one("SELECT code FROM identity_registration_code")
    return str(row[0]) if row else None


def set_registration_code(tx: Tx, code: str) -> None:
    tx.execute("INSERT INTO identity_registration_code (code) VALUES (?)", code)


def delete_registration_code(tx: Tx) -> bool:
    return tx.execute("DELETE FROM identity_registration_code") > 0


# claims


def add_claim(tx: Tx, claim_id: str, document: str, expires_ms: int) -> None:
    tx.execute("INSERT INTO identity_claim (id, document, expires_ms) VALUES (?, ?, ?)", claim_id, document, expires_ms)


def claim(tx: Tx, claim_id: str) -> tuple[str, int] | None:
    """(policy document, when it ends)."""
    row = tx.one("SELECT document, expires_ms FROM identity_claim WHERE id = ?", claim_id)
    return (str(row[0]), int(row[1])) if row else None


def ended_claims(tx: Tx) -> list[str]:
    return [str(row[0]) for row in tx.all("SELECT id FROM identity_claim WHERE expires_ms <= ?", tx.now_ms)]


def delete_claim(tx: Tx, claim_id: str) -> None:
    tx.execute("DELETE FROM identity_claim WHERE id = ?", claim_id)


def _authority(row: Row) -> Authority:
    return Authority(
        id=str(row[0]),
        der=bytes(row[1]),
        subject=str(row[2]),
        status=str(row[3]),
        is_open=bool(row[4]),
        template_name=None if row[5] is None else str(row[5]),
        template_body=None if row[6] is None else str(row[6]),
        role=None if row[7] is None else str(row[7]),
        version=int(row[8]),
        created_ms=int(row[9]),
        modified_ms=int(row[10]),
    )
