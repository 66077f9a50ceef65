CREATE TABLE model_version (
    name TEXT NOT NULL,
    version INTEGER NOT NULL,
    status TEXT NOT NULL,
    document BLOB NOT NULL,
    created_ms INTEGER NOT NULL,
    PRIMARY KEY (name, version)
);
