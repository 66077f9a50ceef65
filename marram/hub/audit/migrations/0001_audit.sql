-- One act a row. `entry` is the JSON text that `digest` was made of, kept as it was written.
CREATE TABLE audit (
    seq INTEGER PRIMARY KEY,
    at_ms INTEGER NOT NULL,
    principal TEXT NOT NULL,
    operation TEXT NOT NULL,
    entry BLOB NOT NULL,
    digest BLOB NOT NULL
);
CREATE INDEX audit_by_time ON audit (at_ms);
CREATE INDEX audit_by_principal ON audit (principal, seq);
CREATE INDEX audit_by_operation ON audit (operation, seq);
-- What was pruned after its 400 days: the chain goes on from here.
CREATE TABLE audit_base (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    seq INTEGER NOT NULL,
    digest BLOB NOT NULL
);
