CREATE TABLE job (
    id TEXT PRIMARY KEY,
    namespace TEXT NOT NULL,
    document BLOB NOT NULL,
    status TEXT NOT NULL,
    created_ms INTEGER NOT NULL
);
CREATE TABLE job_execution (
    job TEXT NOT NULL REFERENCES job (id) ON DELETE CASCADE,
    thing TEXT NOT NULL,
    status TEXT NOT NULL,
    details TEXT NOT NULL,
    number INTEGER NOT NULL,
    version INTEGER NOT NULL,
    queued_ms INTEGER NOT NULL,
    started_ms INTEGER,
    updated_ms INTEGER NOT NULL,
    PRIMARY KEY (job, thing)
);
CREATE INDEX job_execution_thing ON job_execution (thing, status, queued_ms);
