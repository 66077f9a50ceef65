CREATE TABLE provisioning_template (
    name TEXT NOT NULL PRIMARY KEY,
    kind TEXT NOT NULL,
    description TEXT NOT NULL,
    enabled INTEGER NOT NULL,
    role TEXT NOT NULL,
    default_version INTEGER NOT NULL,
    last_version INTEGER NOT NULL,
    created_ms INTEGER NOT NULL,
    modified_ms INTEGER NOT NULL
);
CREATE TABLE provisioning_template_version (
    template TEXT NOT NULL,
    version INTEGER NOT NULL,
    body TEXT NOT NULL,
    created_ms INTEGER NOT NULL,
    PRIMARY KEY (template, version)
);
-- Certificates made for a claim that have not been provisioned: they go when their ownership token ends.
CREATE TABLE provisioning_pending (
    certificate TEXT NOT NULL PRIMARY KEY,
    claim TEXT NOT NULL,
    expires_ms INTEGER NOT NULL
);
CREATE INDEX provisioning_pending_expires ON provisioning_pending (expires_ms);
CREATE INDEX provisioning_pending_claim ON provisioning_pending (claim);
-- position: bytes of the input whose lines are in a report; what is beyond it has its rows in provisioning_line.
CREATE TABLE provisioning_task (
    id TEXT NOT NULL PRIMARY KEY,
    template TEXT NOT NULL,
    bucket TEXT NOT NULL,
    object TEXT NOT NULL,
    role TEXT NOT NULL,
    status TEXT NOT NULL,
    message TEXT NOT NULL,
    size INTEGER NOT NULL,
    position INTEGER NOT NULL,
    line INTEGER NOT NULL,
    successes INTEGER NOT NULL,
    failures INTEGER NOT NULL,
    created_ms INTEGER NOT NULL,
    modified_ms INTEGER NOT NULL
);
CREATE INDEX provisioning_task_created ON provisioning_task (created_ms, id);
CREATE TABLE provisioning_line (
    task TEXT NOT NULL,
    line INTEGER NOT NULL,
    failed INTEGER NOT NULL,
    report TEXT NOT NULL,
    PRIMARY KEY (task, line)
);
CREATE TABLE provisioning_report (
    task TEXT NOT NULL,
    number INTEGER NOT NULL,
    kind TEXT NOT NULL,
    object TEXT NOT NULL,
    PRIMARY KEY (task, kind, number)
);
