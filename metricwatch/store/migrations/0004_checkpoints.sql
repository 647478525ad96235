-- A job may end skipped: passed over by the backlog's policy, or its files were gone. (SQLite cannot change a CHECK.)
CREATE TABLE jobs_now (
  id            INTEGER PRIMARY KEY,
  snapshot      INTEGER NOT NULL UNIQUE REFERENCES snapshots (id),
  state         TEXT NOT NULL
    CHECK (state IN ('queued', 'leased', 'done', 'failed', 'quarantined', 'superseded', 'skipped')),
  attempt       INTEGER NOT NULL DEFAULT 0,
  crashes       INTEGER NOT NULL DEFAULT 0,
  not_before_ms INTEGER NOT NULL DEFAULT 0,
  lease_ms      INTEGER,        -- when the lease lapses
  reason        TEXT NOT NULL DEFAULT '',
  created_ms    INTEGER NOT NULL,
  finished_ms   INTEGER,
  holds_back    INTEGER NOT NULL DEFAULT 1
) STRICT;
INSERT INTO jobs_now SELECT id, snapshot, state, attempt, crashes, not_before_ms, lease_ms, reason, created_ms,
  finished_ms, holds_back FROM jobs;
DROP TABLE jobs;
ALTER TABLE jobs_now RENAME TO jobs;
CREATE INDEX jobs_open ON jobs (id) WHERE state IN ('queued', 'leased');

-- Pictures on their way to a sink. Born with an evaluation; state, attempts and reason belong to export.
CREATE TABLE pictures (
  id            INTEGER PRIMARY KEY,
  sink          TEXT NOT NULL,
  run           TEXT NOT NULL REFERENCES runs (key),
  identity      TEXT NOT NULL,
  key           TEXT NOT NULL,
  step          INTEGER NOT NULL,
  timestamp_ms  INTEGER NOT NULL,
  path          TEXT NOT NULL,  -- of the PNG, in the state folder: gone once no row is pending for it
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
