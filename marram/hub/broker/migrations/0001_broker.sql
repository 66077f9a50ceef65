-- A persistent session as of the checkpoint: `body` has version, expiry, principal, subscriptions and queued offsets.
CREATE TABLE broker_session (
    client_id TEXT PRIMARY KEY,
    body TEXT NOT NULL
);
-- Highest accepted position of each source that numbers its messages (edge cores' lanes, the outbox).
CREATE TABLE broker_origin (
    source TEXT PRIMARY KEY,
    position INTEGER NOT NULL
);
-- name 'checkpoint': the journal offset up to which the two tables above are complete.
CREATE TABLE broker_state (
    name TEXT PRIMARY KEY,
    value INTEGER NOT NULL
);
CREATE TABLE broker_retained (
    topic TEXT PRIMARY KEY,
    payload BLOB NOT NULL,
    qos INTEGER NOT NULL,
    properties BLOB NOT NULL,
    created_ms INTEGER NOT NULL,
    expires_ms INTEGER
);
