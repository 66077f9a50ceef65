ALTER TABLE note ADD COLUMN size INTEGER; UPDATE note SET size = length(text);
