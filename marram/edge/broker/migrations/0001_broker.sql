CREATE TABLE client_device (
    certificate TEXT PRIMARY KEY,
    thing TEXT NOT NULL
);
CREATE TABLE retained (
    topic TEXT PRIMARY KEY,
    payload BLOB NOT NULL,
    qos INTEGER NOT NULL
);
