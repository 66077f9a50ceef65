CREATE TABLE shadow (
    thing TEXT NOT NULL,
    name TEXT NOT NULL,
    body BLOB NOT NULL,
    modified_ms INTEGER NOT NULL,
    PRIMARY KEY (thing, name)
);
CREATE TABLE shadow_grave (
    thing TEXT NOT NULL,
    name TEXT NOT NULL,
    version INTEGER NOT NULL,
    deleted_ms INTEGER NOT NULL,
    PRIMARY KEY (thing, name)
);
