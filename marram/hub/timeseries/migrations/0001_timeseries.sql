CREATE TABLE ts_file (
    file TEXT PRIMARY KEY,
    series TEXT NOT NULL,
    from_ms BIGINT NOT NULL,
    to_ms BIGINT NOT NULL,
    points BIGINT NOT NULL,
    bytes BIGINT NOT NULL,
    created_ms BIGINT NOT NULL
);
CREATE TABLE ts_progress (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    position BIGINT NOT NULL
);
CREATE TABLE ts_origin (
    source TEXT PRIMARY KEY,
    position BIGINT NOT NULL,
    result BIGINT NOT NULL
);
