-- Written by upkeep: when it last did what.
CREATE TABLE upkeep (
  task    TEXT PRIMARY KEY CHECK (task IN ('backup')),
  done_ms INTEGER NOT NULL
) STRICT;

-- Written by `metricwatch retry`; each row is removed by the stage that acts on it.
CREATE TABLE retries (
  kind   TEXT NOT NULL CHECK (kind IN ('job', 'revision', 'delivery', 'notification')),
  target INTEGER NOT NULL,
  PRIMARY KEY (kind, target)
) STRICT;

-- 0 for a job that waits and lets the later ones of its source pass: its files are gone or being written.
ALTER TABLE jobs ADD COLUMN holds_back INTEGER NOT NULL DEFAULT 1;

-- For upkeep, which looks for what arrived long ago.
CREATE INDEX deliveries_sent ON deliveries (sent_ms) WHERE state = 'sent';

-- The newest time at which the file system changed one of its images: tells images that went from a step written anew.
ALTER TABLE snapshots ADD COLUMN changed_ns INTEGER NOT NULL DEFAULT 0;
