-- since_ms: when it was put, or when its last reference went. dying: its file is being deleted, and nobody may refer to it.
CREATE TABLE blob (
    sha256 TEXT PRIMARY KEY,
    size INTEGER NOT NULL,
    refs INTEGER NOT NULL,
    since_ms INTEGER NOT NULL,
    dying INTEGER NOT NULL
);
CREATE INDEX blob_unused ON blob (refs, since_ms);
CREATE TABLE blob_ref (
    sha256 TEXT NOT NULL REFERENCES blob (sha256),
    owner TEXT NOT NULL,
    PRIMARY KEY (sha256, owner)
);
