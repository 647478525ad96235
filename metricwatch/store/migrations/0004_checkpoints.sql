-- A job may end skipped: passed over by the backlog's policy, or its files were gone. (SQLite cannot change a CHECK.)
-- source and step are its snapshot's and never change: the next job is found in an index, however long the queue is.
CREATE TABLE jobs_now (
  id            INTEGER PRIMARY KEY,
  snapshot      INTEGER NOT NULL UNIQUE REFERENCES snapshots (id),
  source        TEXT NOT NULL,
  step          INTEGER NOT NULL,
  state         TEXT NOT NULL
    CHECK (state IN ('queued', 'leased', 'done', 'failed', 'quarantined', 'superseded', 'skipped')),
  attempt       INTEGER NOT NULL DEFAULT 0,
  crashes       INTEGER NOT NULL DEFAULT 0,
  not_before_ms INTEGER NOT NULL DEFAULT 0,
  lease_ms      INTEGER,        -- when the lease lapses
  reason        TEXT NOT NULL DEFAULT '',
  created_ms    INTEGER NOT NULL,
  finished_ms   INTEGER,
  holds_back    INTEGER NOT NULL DEFAULT 1,  -- 0: it waits and lets the later ones of its source pass
  asked         INTEGER NOT NULL DEFAULT 0,  -- 1: by a person, who wants it scored whatever the backlog's policy is
  changes       INTEGER NOT NULL DEFAULT 0,  -- tries at which its files were not those of the snapshot; no attempts
  cut_off       INTEGER NOT NULL DEFAULT 0   -- how often in a row it was at work when the daemon was killed
) STRICT;
INSERT INTO jobs_now (id, snapshot, source, step, state, attempt, crashes, not_before_ms, lease_ms, reason, created_ms,
    finished_ms, holds_back)
  SELECT jobs.id, snapshot, source, step, state, attempt, crashes, not_before_ms, lease_ms, reason, created_ms,
    finished_ms, holds_back FROM jobs JOIN snapshots ON snapshots.id = jobs.snapshot;
DROP TABLE jobs;
ALTER TABLE jobs_now RENAME TO jobs;
CREATE INDEX jobs_open ON jobs (source, id) WHERE state IN ('queued', 'leased');
CREATE INDEX jobs_by_step ON jobs (source, step) WHERE state IN ('queued', 'leased');

-- Pictures on their way to a sink. Born with an evaluation; state, attempts and reason belong to export.
CREATE TABLE pictures (
  id            INTEGER PRIMARY KEY,
  sink          TEXT NOT NULL,
  run           TEXT NOT NULL REFERENCES runs (key),
  identity      TEXT NOT NULL,
  key           TEXT NOT NULL,
  step          INTEGER NOT NULL,
  timestamp_ms  INTEGER NOT NULL,
  path          TEXT NOT NULL,  -- of the PNG, seen from the state folder: gone once no row is pending for it
  state         TEXT NOT NULL CHECK (state IN ('pending', 'sent', 'rejected')),
  attempts      INTEGER NOT NULL DEFAULT 0,
  not_before_ms INTEGER NOT NULL DEFAULT 0,
  reason        TEXT NOT NULL DEFAULT '',
  created_ms    INTEGER NOT NULL,
  sent_ms       INTEGER,
  UNIQUE (sink, run, identity)
) STRICT;
CREATE INDEX pictures_pending ON pictures (sink, run, id) WHERE state = 'pending';
CREATE INDEX pictures_sent ON pictures (sent_ms) WHERE state = 'sent';
CREATE INDEX pictures_files ON pictures (path) WHERE state = 'pending';
CREATE INDEX pictures_rejected ON pictures (id) WHERE state = 'rejected';
