CREATE TABLE shadow (
    thing TEXT NOT NULL,
    name TEXT NOT NULL,
    body BLOB NOT NULL,
    deleted INTEGER NOT NULL,
    PRIMARY KEY (thing, name)
);
CREATE TABLE shadow_base (
    thing TEXT NOT NULL,
    name TEXT NOT NULL,
    body BLOB NOT NULL,
    PRIMARY KEY (thing, name)
);
