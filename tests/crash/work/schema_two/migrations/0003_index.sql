CREATE INDEX note_size ON note (size);
