-- Users and roles. kind: user or role; folded: the name in lower case, since names differ by more than their case.
-- trust and principals (ids of those whom the trust policy names, JSON) are of roles.
CREATE TABLE identity_entity (
    id TEXT NOT NULL PRIMARY KEY,
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    folded TEXT NOT NULL,
    path TEXT NOT NULL,
    description TEXT NOT NULL,
    tags TEXT NOT NULL,
    trust TEXT NOT NULL,
    principals TEXT NOT NULL,
    max_session_s INTEGER NOT NULL,
    created_ms INTEGER NOT NULL
);
CREATE UNIQUE INDEX identity_entity_name ON identity_entity (kind, name);
CREATE INDEX identity_entity_folded ON identity_entity (kind, folded);
CREATE TABLE identity_inline (
    owner TEXT NOT NULL,
    name TEXT NOT NULL,
    document TEXT NOT NULL,
    PRIMARY KEY (owner, name)
);
CREATE TABLE identity_managed (
    name TEXT NOT NULL PRIMARY KEY,
    folded TEXT NOT NULL UNIQUE,
    id TEXT NOT NULL,
    path TEXT NOT NULL,
    description TEXT NOT NULL,
    tags TEXT NOT NULL,
    default_version INTEGER NOT NULL,
    last_version INTEGER NOT NULL,
    created_ms INTEGER NOT NULL,
    modified_ms INTEGER NOT NULL
);
CREATE TABLE identity_managed_version (
    policy TEXT NOT NULL,
    version INTEGER NOT NULL,
    document TEXT NOT NULL,
    created_ms INTEGER NOT NULL,
    PRIMARY KEY (policy, version)
);
-- policy: the ARN of a managed policy, of this account or built in
CREATE TABLE identity_grant (
    owner TEXT NOT NULL,
    policy TEXT NOT NULL,
    PRIMARY KEY (owner, policy)
);
CREATE INDEX identity_grant_policy ON identity_grant (policy, owner);
CREATE TABLE identity_access_key (
    id TEXT NOT NULL PRIMARY KEY,
    owner TEXT NOT NULL,
    secret BLOB NOT NULL,
    status TEXT NOT NULL,
    used_ms INTEGER NOT NULL,
    used_service TEXT NOT NULL,
    created_ms INTEGER NOT NULL
);
CREATE INDEX identity_access_key_owner ON identity_access_key (owner, id);
CREATE TABLE identity_role_alias (
    name TEXT NOT NULL PRIMARY KEY,
    role_arn TEXT NOT NULL,
    duration_s INTEGER NOT NULL,
    created_ms INTEGER NOT NULL,
    modified_ms INTEGER NOT NULL
);
-- What was a key with a name and a policy is a user of that name with the policy and the key. identity_key stays unread.
INSERT INTO identity_entity (id, kind, name, folded, path, description, tags, trust, principals, max_session_s, created_ms)
    SELECT 'AIDA' || substr(id, 5), 'user', name, lower(name), '/', '', '[]', '', '{}', 0, created_ms FROM identity_key;
INSERT INTO identity_inline (owner, name, document) SELECT 'AIDA' || substr(id, 5), 'marram-key', policy FROM identity_key;
INSERT INTO identity_access_key (id, owner, secret, status, used_ms, used_service, created_ms)
    SELECT id, 'AIDA' || substr(id, 5), secret, 'Active', 0, '', created_ms FROM identity_key;
