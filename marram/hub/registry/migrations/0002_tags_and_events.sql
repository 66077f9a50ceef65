CREATE TABLE registry_tag (
    resource TEXT NOT NULL,
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    bearer TEXT NOT NULL,
    PRIMARY KEY (resource, key)
);
CREATE TABLE registry_event (
    name TEXT NOT NULL PRIMARY KEY,
    enabled INTEGER NOT NULL,
    created_ms INTEGER NOT NULL,
    modified_ms INTEGER NOT NULL
);
