-- By the hub's key: whoever cuts the oldest acts off cannot say that it was their time.
ALTER TABLE audit_base ADD COLUMN seal BLOB;
