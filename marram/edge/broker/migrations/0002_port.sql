CREATE TABLE listener (
    name TEXT PRIMARY KEY,
    port INTEGER NOT NULL
);
