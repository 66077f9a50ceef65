-- One row, "AWS_Things" with the settings of both indexes. state: OFF, BUILDING, REBUILDING, ACTIVE; position: the last
-- thing that the builder has looked at.
CREATE TABLE registry_index (
    name TEXT NOT NULL PRIMARY KEY,
    settings TEXT NOT NULL,
    state TEXT NOT NULL,
    position TEXT NOT NULL
);
CREATE TABLE registry_index_doc (
    id INTEGER NOT NULL PRIMARY KEY,
    thing TEXT NOT NULL UNIQUE
);
-- What slices above the registry said of a thing, as a search answers it.
CREATE TABLE registry_index_part (
    doc INTEGER NOT NULL,
    part TEXT NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (doc, part)
);
-- Ids below zero: fields that a term without a field is not looked for in.
CREATE TABLE registry_index_field (
    id INTEGER NOT NULL PRIMARY KEY,
    name TEXT NOT NULL UNIQUE
);
-- value: null when the entry does not stand for a whole value, empty when text is the value as it was given.
CREATE TABLE registry_index_term (
    doc INTEGER NOT NULL,
    field INTEGER NOT NULL,
    text TEXT NOT NULL,
    number DOUBLE PRECISION,
    value TEXT,
    PRIMARY KEY (doc, field, text)
);
CREATE INDEX registry_index_term_text ON registry_index_term (field, text, doc);
CREATE INDEX registry_index_term_number ON registry_index_term (field, number, doc) WHERE number IS NOT NULL;
-- Thing groups whose members a query decides. state: BUILDING, REBUILDING, ACTIVE; position: of the builder.
CREATE TABLE registry_dynamic (
    thing_group TEXT NOT NULL PRIMARY KEY,
    query TEXT NOT NULL,
    state TEXT NOT NULL,
    position TEXT NOT NULL,
    created_ms INTEGER NOT NULL
);
