CREATE TABLE registry_thing (
    name TEXT NOT NULL PRIMARY KEY,
    id TEXT NOT NULL,
    type TEXT NOT NULL,
    attributes TEXT NOT NULL,
    version INTEGER NOT NULL,
    created_ms INTEGER NOT NULL
);
CREATE INDEX registry_thing_type ON registry_thing (type, name);
CREATE TABLE registry_attribute (
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    thing TEXT NOT NULL,
    PRIMARY KEY (name, value, thing)
);
CREATE INDEX registry_attribute_thing ON registry_attribute (thing);
CREATE TABLE registry_type (
    name TEXT NOT NULL PRIMARY KEY,
    id TEXT NOT NULL,
    description TEXT NOT NULL,
    searchable TEXT NOT NULL,
    deprecated_ms INTEGER,
    created_ms INTEGER NOT NULL
);
CREATE TABLE registry_group (
    name TEXT NOT NULL PRIMARY KEY,
    id TEXT NOT NULL,
    parent TEXT NOT NULL,
    description TEXT NOT NULL,
    attributes TEXT NOT NULL,
    version INTEGER NOT NULL,
    created_ms INTEGER NOT NULL
);
CREATE INDEX registry_group_parent ON registry_group (parent, name);
CREATE TABLE registry_member (
    thing_group TEXT NOT NULL,
    thing TEXT NOT NULL,
    PRIMARY KEY (thing_group, thing)
);
CREATE INDEX registry_member_thing ON registry_member (thing, thing_group);
