CREATE TABLE compilation (
    id TEXT PRIMARY KEY,
    status TEXT NOT NULL,
    document BLOB NOT NULL,
    created_ms INTEGER NOT NULL
);
CREATE INDEX compilation_status ON compilation (status, created_ms);
