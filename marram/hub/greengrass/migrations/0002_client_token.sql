CREATE TABLE deployment_token (
    token TEXT PRIMARY KEY,
    deployment TEXT NOT NULL,
    request BLOB NOT NULL,
    created_ms INTEGER NOT NULL
);
