CREATE TABLE link_bytes (
    day TEXT NOT NULL,
    destination TEXT NOT NULL,
    sent INTEGER NOT NULL,
    received INTEGER NOT NULL,
    PRIMARY KEY (day, destination)
);
CREATE TABLE link_fact (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
);
