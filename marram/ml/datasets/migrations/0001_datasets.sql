CREATE TABLE dataset (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    document BLOB NOT NULL,
    created_ms INTEGER NOT NULL
);
CREATE INDEX dataset_name ON dataset (name, created_ms);
