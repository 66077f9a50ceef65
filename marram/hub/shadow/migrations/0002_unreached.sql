-- since_ms: when the oldest leaf of the delta began to differ; NULL = desired is reached; -1 = a row of before this
-- migration, not looked at yet. since: {JSON pointer: ms}. told: 1 once the event for it has left.
ALTER TABLE shadow ADD COLUMN since_ms INTEGER DEFAULT -1;
ALTER TABLE shadow ADD COLUMN since BLOB;
ALTER TABLE shadow ADD COLUMN told INTEGER NOT NULL DEFAULT 0;
CREATE INDEX shadow_since ON shadow (since_ms, thing, name) WHERE since_ms IS NOT NULL;
CREATE INDEX shadow_untold ON shadow (told, since_ms) WHERE since_ms IS NOT NULL;
