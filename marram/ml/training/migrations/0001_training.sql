CREATE TABLE training_job (
    name TEXT PRIMARY KEY,
    status TEXT NOT NULL,
    document BLOB NOT NULL,
    created_ms INTEGER NOT NULL
);
CREATE INDEX training_job_status ON training_job (status, created_ms);
