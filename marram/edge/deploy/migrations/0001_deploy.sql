CREATE TABLE deployment (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    target TEXT NOT NULL,
    source TEXT NOT NULL,
    document TEXT NOT NULL,
    phase TEXT NOT NULL,
    status TEXT NOT NULL,
    detail TEXT NOT NULL,
    snapshot TEXT NOT NULL,
    reported INTEGER NOT NULL,
    created_ms INTEGER NOT NULL,
    updated_ms INTEGER NOT NULL
);
CREATE TABLE target_root (
    target TEXT NOT NULL,
    component TEXT NOT NULL,
    requirement TEXT NOT NULL,
    PRIMARY KEY (target, component)
);
