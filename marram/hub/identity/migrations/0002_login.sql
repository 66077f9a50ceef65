CREATE TABLE identity_login (
    digest BLOB PRIMARY KEY,
    key_id TEXT NOT NULL,
    expires_ms INTEGER NOT NULL
);
