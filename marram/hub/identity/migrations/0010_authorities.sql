-- Certificates that others signed. authority: the id of the registered CA that signed it, NULL for our own and for those
-- registered without one. anchored: trusted in the TLS handshake by itself.
ALTER TABLE identity_certificate ADD COLUMN authority TEXT;
ALTER TABLE identity_certificate ADD COLUMN anchored INTEGER NOT NULL DEFAULT 0;
CREATE INDEX identity_certificate_authority ON identity_certificate (authority, created_ms, id) WHERE authority IS NOT NULL;
CREATE INDEX identity_certificate_anchored ON identity_certificate (id) WHERE anchored = 1;
-- subject: SHA-256 of the DER of its name, in hex. template_*: what a device of it is provisioned by, at its first connection.
CREATE TABLE identity_authority (
    id TEXT NOT NULL PRIMARY KEY,
    der BLOB NOT NULL,
    subject TEXT NOT NULL,
    status TEXT NOT NULL,
    is_open INTEGER NOT NULL,
    template_name TEXT,
    template_body TEXT,
    role TEXT,
    version INTEGER NOT NULL,
    created_ms INTEGER NOT NULL,
    modified_ms INTEGER NOT NULL
);
CREATE INDEX identity_authority_subject ON identity_authority (subject);
CREATE INDEX identity_authority_created ON identity_authority (created_ms, id);
CREATE TABLE identity_registration_code (
    code TEXT NOT NULL PRIMARY KEY
);
-- Temporary certificates with a policy of their own, not in any list.
CREATE TABLE identity_claim (
    id TEXT NOT NULL PRIMARY KEY,
    document TEXT NOT NULL,
    expires_ms INTEGER NOT NULL
);
