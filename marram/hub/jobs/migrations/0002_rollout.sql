ALTER TABLE job ADD COLUMN seq INTEGER NOT NULL DEFAULT 0;
ALTER TABLE job ADD COLUMN selection TEXT NOT NULL DEFAULT 'CONTINUOUS';
ALTER TABLE job ADD COLUMN driven INTEGER NOT NULL DEFAULT 1;
ALTER TABLE job ADD COLUMN description TEXT NOT NULL DEFAULT '';
ALTER TABLE job ADD COLUMN source TEXT NOT NULL DEFAULT '';
ALTER TABLE job ADD COLUMN template TEXT NOT NULL DEFAULT '';
ALTER TABLE job ADD COLUMN config TEXT NOT NULL DEFAULT '{}';
ALTER TABLE job ADD COLUMN updated_ms INTEGER NOT NULL DEFAULT 0;
ALTER TABLE job ADD COLUMN completed_ms INTEGER;
ALTER TABLE job ADD COLUMN reason_code TEXT NOT NULL DEFAULT '';
ALTER TABLE job ADD COLUMN comment TEXT NOT NULL DEFAULT '';
ALTER TABLE job ADD COLUMN forced INTEGER NOT NULL DEFAULT 0;
ALTER TABLE job ADD COLUMN stopped INTEGER NOT NULL DEFAULT 0;
ALTER TABLE job ADD COLUMN spread INTEGER NOT NULL DEFAULT 1;
ALTER TABLE job ADD COLUMN spread_at INTEGER;
ALTER TABLE job ADD COLUMN spread_after TEXT NOT NULL DEFAULT '';
ALTER TABLE job ADD COLUMN sweep_after TEXT;
ALTER TABLE job ADD COLUMN announce_after TEXT;
ALTER TABLE job ADD COLUMN cancel_after TEXT;
ALTER TABLE job ADD COLUMN waiting INTEGER NOT NULL DEFAULT 0;
ALTER TABLE job ADD COLUMN notified INTEGER NOT NULL DEFAULT 0;
ALTER TABLE job ADD COLUMN minute_ms INTEGER;
ALTER TABLE job ADD COLUMN minute_limit INTEGER NOT NULL DEFAULT 0;
ALTER TABLE job ADD COLUMN minute_used INTEGER NOT NULL DEFAULT 0;
ALTER TABLE job ADD COLUMN due_ms INTEGER;
ALTER TABLE job ADD COLUMN queued INTEGER NOT NULL DEFAULT 0;
ALTER TABLE job ADD COLUMN in_progress INTEGER NOT NULL DEFAULT 0;
ALTER TABLE job ADD COLUMN succeeded INTEGER NOT NULL DEFAULT 0;
ALTER TABLE job ADD COLUMN failed INTEGER NOT NULL DEFAULT 0;
ALTER TABLE job ADD COLUMN timed_out INTEGER NOT NULL DEFAULT 0;
ALTER TABLE job ADD COLUMN rejected INTEGER NOT NULL DEFAULT 0;
ALTER TABLE job ADD COLUMN removed INTEGER NOT NULL DEFAULT 0;
ALTER TABLE job ADD COLUMN canceled INTEGER NOT NULL DEFAULT 0;
ALTER TABLE job ADD COLUMN retried_failed INTEGER NOT NULL DEFAULT 0;
ALTER TABLE job ADD COLUMN retried_timed_out INTEGER NOT NULL DEFAULT 0;
UPDATE job SET
    seq = (SELECT count(*) FROM job AS other WHERE other.created_ms < job.created_ms OR (other.created_ms = job.created_ms AND other.id <= job.id)),
    updated_ms = created_ms,
    queued = (SELECT count(*) FROM job_execution e WHERE e.job = job.id AND e.status = 'QUEUED'),
    in_progress = (SELECT count(*) FROM job_execution e WHERE e.job = job.id AND e.status = 'IN_PROGRESS'),
    succeeded = (SELECT count(*) FROM job_execution e WHERE e.job = job.id AND e.status = 'SUCCEEDED'),
    failed = (SELECT count(*) FROM job_execution e WHERE e.job = job.id AND e.status = 'FAILED'),
    timed_out = (SELECT count(*) FROM job_execution e WHERE e.job = job.id AND e.status = 'TIMED_OUT'),
    rejected = (SELECT count(*) FROM job_execution e WHERE e.job = job.id AND e.status = 'REJECTED'),
    removed = (SELECT count(*) FROM job_execution e WHERE e.job = job.id AND e.status = 'REMOVED'),
    canceled = (SELECT count(*) FROM job_execution e WHERE e.job = job.id AND e.status = 'CANCELED');
CREATE INDEX job_seq ON job (seq);
CREATE INDEX job_due ON job (due_ms) WHERE due_ms IS NOT NULL;

ALTER TABLE job_execution ADD COLUMN forced INTEGER NOT NULL DEFAULT 0;
ALTER TABLE job_execution ADD COLUMN expires_ms INTEGER;
ALTER TABLE job_execution ADD COLUMN deadline_ms INTEGER;
ALTER TABLE job_execution ADD COLUMN retries_failed INTEGER NOT NULL DEFAULT 0;
ALTER TABLE job_execution ADD COLUMN retries_timed_out INTEGER NOT NULL DEFAULT 0;
CREATE INDEX job_execution_deadline ON job_execution (deadline_ms) WHERE deadline_ms IS NOT NULL;
CREATE INDEX job_execution_status ON job_execution (job, status, thing);

CREATE TABLE job_execution_past (
    job TEXT NOT NULL REFERENCES job (id) ON DELETE CASCADE,
    thing TEXT NOT NULL,
    number INTEGER NOT NULL,
    status TEXT NOT NULL,
    details TEXT NOT NULL,
    version INTEGER NOT NULL,
    queued_ms INTEGER NOT NULL,
    started_ms INTEGER,
    updated_ms INTEGER NOT NULL,
    forced INTEGER NOT NULL,
    retries_failed INTEGER NOT NULL,
    retries_timed_out INTEGER NOT NULL,
    PRIMARY KEY (job, thing, number)
);
CREATE INDEX job_execution_past_thing ON job_execution_past (thing, queued_ms);

CREATE TABLE job_waiting (
    job TEXT NOT NULL REFERENCES job (id) ON DELETE CASCADE,
    thing TEXT NOT NULL,
    PRIMARY KEY (job, thing)
);

CREATE INDEX job_waiting_thing ON job_waiting (thing);

CREATE TABLE job_target (
    job TEXT NOT NULL REFERENCES job (id) ON DELETE CASCADE,
    position INTEGER NOT NULL,
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    group_id TEXT NOT NULL,
    PRIMARY KEY (job, kind, name)
);
CREATE INDEX job_target_name ON job_target (kind, name);

CREATE TABLE job_template (
    id TEXT PRIMARY KEY,
    description TEXT NOT NULL,
    document BLOB NOT NULL,
    source TEXT NOT NULL,
    config TEXT NOT NULL,
    created_ms INTEGER NOT NULL
);
