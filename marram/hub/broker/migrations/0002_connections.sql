-- The last connection of each client id. Its body says who, when, from where, and why it ended.
CREATE TABLE broker_connection (
    client_id TEXT PRIMARY KEY,
    thing TEXT,
    connected INTEGER NOT NULL,
    changed_ms INTEGER NOT NULL,
    body TEXT NOT NULL
);
CREATE INDEX broker_connection_live ON broker_connection (client_id) WHERE connected = 1;
CREATE INDEX broker_connection_thing ON broker_connection (thing) WHERE thing IS NOT NULL;
