CREATE TABLE component (
    name TEXT NOT NULL,
    version TEXT NOT NULL,
    original BLOB NOT NULL,
    recipe BLOB NOT NULL,
    publisher TEXT NOT NULL,
    description TEXT NOT NULL,
    created_ms INTEGER NOT NULL,
    PRIMARY KEY (name, version)
);
CREATE TABLE component_artifact (
    component TEXT NOT NULL,
    version TEXT NOT NULL,
    name TEXT NOT NULL,
    digest TEXT NOT NULL,
    size INTEGER NOT NULL,
    PRIMARY KEY (component, version, name)
);
CREATE TABLE deployment (
    id TEXT PRIMARY KEY,
    target TEXT NOT NULL,
    revision INTEGER NOT NULL,
    name TEXT NOT NULL,
    status TEXT NOT NULL,
    reason TEXT NOT NULL,
    job TEXT NOT NULL,
    request BLOB NOT NULL,
    document BLOB NOT NULL,
    created_ms INTEGER NOT NULL,
    UNIQUE (target, revision)
);
CREATE TABLE canary (
    deployment TEXT PRIMARY KEY,
    things TEXT NOT NULL,
    bake_ms INTEGER NOT NULL,
    state TEXT NOT NULL,
    baking_since_ms INTEGER,
    reason TEXT NOT NULL
);
CREATE TABLE core_device (
    thing TEXT PRIMARY KEY,
    nucleus_version TEXT NOT NULL,
    platform TEXT NOT NULL,
    architecture TEXT NOT NULL,
    runtime TEXT NOT NULL,
    status TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    reported_ms INTEGER NOT NULL
);
CREATE TABLE installed_component (
    thing TEXT NOT NULL,
    name TEXT NOT NULL,
    version TEXT NOT NULL,
    state TEXT NOT NULL,
    details TEXT NOT NULL,
    is_root INTEGER NOT NULL,
    source TEXT NOT NULL,
    changed_ms INTEGER NOT NULL,
    reported_ms INTEGER NOT NULL,
    PRIMARY KEY (thing, name)
);
CREATE TABLE client_device (
    core TEXT NOT NULL,
    thing TEXT NOT NULL,
    associated_ms INTEGER NOT NULL,
    PRIMARY KEY (core, thing)
);
