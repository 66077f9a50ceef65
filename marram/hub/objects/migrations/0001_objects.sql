CREATE TABLE bucket (
    name TEXT NOT NULL PRIMARY KEY,
    internal INTEGER NOT NULL,
    created_ms INTEGER NOT NULL
);
CREATE TABLE object (
    bucket TEXT NOT NULL,
    object_key TEXT NOT NULL,
    id TEXT NOT NULL,
    digest TEXT NOT NULL,
    size INTEGER NOT NULL,
    etag TEXT NOT NULL,
    headers TEXT NOT NULL,
    modified_ms INTEGER NOT NULL,
    PRIMARY KEY (bucket, object_key)
);
CREATE TABLE upload (
    id TEXT NOT NULL PRIMARY KEY,
    bucket TEXT NOT NULL,
    object_key TEXT NOT NULL,
    headers TEXT NOT NULL,
    created_ms INTEGER NOT NULL
);
CREATE TABLE upload_part (
    upload_id TEXT NOT NULL,
    number INTEGER NOT NULL,
    id TEXT NOT NULL,
    digest TEXT NOT NULL,
    size INTEGER NOT NULL,
    etag TEXT NOT NULL,
    modified_ms INTEGER NOT NULL,
    PRIMARY KEY (upload_id, number)
);
