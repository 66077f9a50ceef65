-- Thing groups that are deleted while things are still in them: nobody sees them any more, and their members leave in pieces.
-- above: the groups they were below, the root first, as [name, id] in JSON.
CREATE TABLE registry_leaving (
    name TEXT NOT NULL PRIMARY KEY,
    id TEXT NOT NULL,
    parent TEXT NOT NULL,
    description TEXT NOT NULL,
    attributes TEXT NOT NULL,
    version INTEGER NOT NULL,
    created_ms INTEGER NOT NULL,
    above TEXT NOT NULL
);
