CREATE TABLE rule (
    name TEXT PRIMARY KEY,
    body TEXT NOT NULL,
    disabled INTEGER NOT NULL,
    created_ms BIGINT NOT NULL
);
CREATE TABLE rule_span (
    name TEXT NOT NULL,
    from_offset BIGINT NOT NULL,
    until_offset BIGINT,
    body TEXT NOT NULL,
    PRIMARY KEY (name, from_offset)
);
CREATE TABLE rule_progress (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    position BIGINT NOT NULL
);
