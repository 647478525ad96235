-- What happened, in words, where an alert is not about a movement, and why; '' where it is.
ALTER TABLE alerts ADD COLUMN what TEXT NOT NULL DEFAULT '';
ALTER TABLE alerts ADD COLUMN detail TEXT NOT NULL DEFAULT '';
