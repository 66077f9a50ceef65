CREATE TABLE config_leaf (
    component TEXT NOT NULL,
    path TEXT NOT NULL,
    value TEXT NOT NULL,
    time_ms INTEGER NOT NULL,
    PRIMARY KEY (component, path)
);
CREATE TABLE component (
    name TEXT PRIMARY KEY,
    version TEXT NOT NULL,
    recipe TEXT NOT NULL,
    run_with TEXT NOT NULL,
    artifacts TEXT NOT NULL,
    installed TEXT NOT NULL
);
CREATE TABLE nucleus_fact (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
);
