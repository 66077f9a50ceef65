CREATE TABLE deployment_asker (
    thing TEXT PRIMARY KEY,
    first_ms INTEGER NOT NULL
);
