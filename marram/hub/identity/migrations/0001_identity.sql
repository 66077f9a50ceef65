CREATE TABLE identity_certificate (
    id TEXT NOT NULL PRIMARY KEY,
    der BLOB NOT NULL,
    status TEXT NOT NULL,
    version INTEGER NOT NULL,
    created_ms INTEGER NOT NULL,
    modified_ms INTEGER NOT NULL
);
CREATE INDEX identity_certificate_created ON identity_certificate (created_ms, id);
CREATE TABLE identity_policy (
    name TEXT NOT NULL PRIMARY KEY,
    default_version INTEGER NOT NULL,
    last_version INTEGER NOT NULL,
    created_ms INTEGER NOT NULL,
    modified_ms INTEGER NOT NULL
);
CREATE INDEX identity_policy_created ON identity_policy (created_ms, name);
CREATE TABLE identity_policy_version (
    policy TEXT NOT NULL,
    version INTEGER NOT NULL,
    document TEXT NOT NULL,
    created_ms INTEGER NOT NULL,
    PRIMARY KEY (policy, version)
);
-- target: cert/<id> or thinggroup/<name>
CREATE TABLE identity_attachment (
    target TEXT NOT NULL,
    policy TEXT NOT NULL,
    PRIMARY KEY (target, policy)
);
CREATE INDEX identity_attachment_policy ON identity_attachment (policy, target);
CREATE TABLE identity_thing (
    thing TEXT NOT NULL,
    certificate TEXT NOT NULL,
    exclusive INTEGER NOT NULL,
    PRIMARY KEY (thing, certificate)
);
CREATE INDEX identity_thing_certificate ON identity_thing (certificate, thing);
CREATE TABLE identity_key (
    id TEXT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    secret BLOB NOT NULL,
    policy TEXT NOT NULL,
    created_ms INTEGER NOT NULL
);
CREATE TABLE identity_join_token (
    hash BLOB NOT NULL PRIMARY KEY,
    thing TEXT NOT NULL,
    policy TEXT NOT NULL,
    expires_ms INTEGER NOT NULL
);
