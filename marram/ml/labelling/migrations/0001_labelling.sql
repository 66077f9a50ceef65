CREATE TABLE labelling_job (
    name TEXT PRIMARY KEY,
    status TEXT NOT NULL,
    document BLOB NOT NULL,
    created_ms INTEGER NOT NULL
);
CREATE TABLE labelling_task (
    job TEXT NOT NULL REFERENCES labelling_job (name),
    number INTEGER NOT NULL,
    line BLOB NOT NULL,
    label TEXT,
    labeller TEXT,
    labelled_ms INTEGER,
    PRIMARY KEY (job, number)
);
