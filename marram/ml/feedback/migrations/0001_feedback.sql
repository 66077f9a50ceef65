CREATE TABLE feedback (
    sha256 TEXT PRIMARY KEY,
    thing TEXT NOT NULL,
    document BLOB NOT NULL,
    created_ms INTEGER NOT NULL
);
CREATE INDEX feedback_order ON feedback (created_ms, sha256);
CREATE INDEX feedback_thing ON feedback (thing, created_ms);
