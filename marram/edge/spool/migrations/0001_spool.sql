CREATE TABLE spool_lane (
    lane TEXT PRIMARY KEY,
    spool_id TEXT NOT NULL,
    position INTEGER NOT NULL
);
CREATE TABLE spool_dead (
    lane TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    spool_id TEXT NOT NULL,
    topic TEXT NOT NULL,
    payload BLOB NOT NULL,
    reason_code INTEGER NOT NULL,
    reason TEXT NOT NULL,
    created_ms INTEGER NOT NULL,
    PRIMARY KEY (spool_id, lane, sequence)
);
