-- Times are milliseconds since 1970 (UTC). Identity is always a UNIQUE constraint, never a habit of the code.

-- Written by watch.
CREATE TABLE runs (
  key         TEXT PRIMARY KEY,
  name        TEXT NOT NULL,
  id          TEXT,
  id_file     TEXT,
  total_steps INTEGER,
  created_ms  INTEGER NOT NULL
) STRICT;

-- Written by watch.
CREATE TABLE snapshots (
  id         INTEGER PRIMARY KEY,
  source     TEXT NOT NULL,
  run        TEXT NOT NULL REFERENCES runs (key),
  step       INTEGER NOT NULL,
  revision   INTEGER NOT NULL,
  path       TEXT NOT NULL,
  members    TEXT,              -- JSON list of file names, NULL: the whole directory
  digest     TEXT NOT NULL,
  images     INTEGER NOT NULL,
  newest_ns  INTEGER NOT NULL,  -- modification time of its youngest image
  mtime_ns   INTEGER NOT NULL,  -- of the directory, when it was looked into
  settled_ms INTEGER NOT NULL,
  UNIQUE (source, step, revision)
) STRICT;

-- Rows are born in watch; state, lease and crashes belong to the supervisor.
CREATE TABLE jobs (
  id            INTEGER PRIMARY KEY,
  snapshot      INTEGER NOT NULL UNIQUE REFERENCES snapshots (id),
  state         TEXT NOT NULL CHECK (state IN ('queued', 'leased', 'done', 'failed', 'quarantined', 'superseded')),
  attempt       INTEGER NOT NULL DEFAULT 0,
  crashes       INTEGER NOT NULL DEFAULT 0,
  not_before_ms INTEGER NOT NULL DEFAULT 0,
  lease_ms      INTEGER,        -- when the lease lapses
  reason        TEXT NOT NULL DEFAULT '',
  created_ms    INTEGER NOT NULL,
  finished_ms   INTEGER
) STRICT;
CREATE INDEX jobs_open ON jobs (id) WHERE state IN ('queued', 'leased');

-- Written by the supervisor, with its scores and deliveries in one transaction.
CREATE TABLE evaluations (
  id           INTEGER PRIMARY KEY,
  job          INTEGER NOT NULL UNIQUE REFERENCES jobs (id),
  run          TEXT NOT NULL REFERENCES runs (key),
  step         INTEGER NOT NULL,
  revision     INTEGER NOT NULL,
  images       INTEGER NOT NULL,
  seconds      REAL NOT NULL,
  skipped      TEXT NOT NULL,   -- JSON list of {path, reason}
  provenance   TEXT NOT NULL,   -- JSON object
  evaluated_ms INTEGER NOT NULL
) STRICT;
CREATE INDEX evaluations_by_step ON evaluations (run, step, revision);

CREATE TABLE scores (
  id               INTEGER PRIMARY KEY,
  evaluation       INTEGER NOT NULL REFERENCES evaluations (id),
  run              TEXT NOT NULL,
  step             INTEGER NOT NULL,
  revision         INTEGER NOT NULL,
  key              TEXT NOT NULL,
  value            REAL,
  stderr           REAL,
  images           INTEGER NOT NULL,
  state            TEXT NOT NULL,
  detail           TEXT NOT NULL,
  higher_is_better INTEGER NOT NULL,
  series           TEXT NOT NULL,
  provenance       TEXT NOT NULL,
  UNIQUE (evaluation, key),
  CHECK ((value IS NULL) = (state <> 'ok'))
) STRICT;
CREATE INDEX scores_by_series ON scores (run, key, step, revision);
CREATE INDEX scores_by_arrival ON scores (run, key, id);
CREATE INDEX scores_failed ON scores (state) WHERE state = 'failed';

-- The outbox. Rows are born in the transaction that makes them true; their state belongs to export.
CREATE TABLE deliveries (
  id            INTEGER PRIMARY KEY,
  sink          TEXT NOT NULL,
  run           TEXT NOT NULL REFERENCES runs (key),
  identity      TEXT NOT NULL,
  points        TEXT NOT NULL,  -- JSON list of [key, value, timestamp_ms, step], sent verbatim for ever
  tags          TEXT NOT NULL,  -- JSON object
  state         TEXT NOT NULL CHECK (state IN ('pending', 'sent', 'rejected')),
  attempts      INTEGER NOT NULL DEFAULT 0,
  not_before_ms INTEGER NOT NULL DEFAULT 0,
  reason        TEXT NOT NULL DEFAULT '',
  created_ms    INTEGER NOT NULL,
  sent_ms       INTEGER,
  UNIQUE (sink, identity)
) STRICT;
CREATE INDEX deliveries_open ON deliveries (sink, run, id) WHERE state = 'pending';
CREATE INDEX deliveries_rejected ON deliveries (id) WHERE state = 'rejected';

-- Written by export: which run of the sink a run of ours is.
CREATE TABLE remote_runs (
  sink TEXT NOT NULL,
  run  TEXT NOT NULL REFERENCES runs (key),
  id   TEXT NOT NULL,
  url  TEXT,
  PRIMARY KEY (sink, run)
) STRICT;

-- Written by rules.
CREATE TABLE rule_marks (
  run           TEXT NOT NULL REFERENCES runs (key),
  rule          TEXT NOT NULL,
  definition    TEXT NOT NULL,     -- digest of the rule as configured
  since_score   INTEGER NOT NULL,  -- newest score when the rule was first seen in this form: older news is history
  up_to_score   INTEGER NOT NULL,  -- newest score it has been evaluated on
  PRIMARY KEY (run, rule)
) STRICT;

CREATE TABLE rule_states (
  run       TEXT NOT NULL REFERENCES runs (key),
  rule      TEXT NOT NULL,
  step      INTEGER NOT NULL,
  state     TEXT NOT NULL,
  direction TEXT,
  change    REAL,
  note      TEXT NOT NULL,
  PRIMARY KEY (run, rule, step)
) STRICT;

CREATE TABLE alerts (
  id            INTEGER PRIMARY KEY,
  run           TEXT NOT NULL REFERENCES runs (key),
  rule          TEXT NOT NULL,
  metric        TEXT NOT NULL,
  direction     TEXT NOT NULL CHECK (direction IN ('worse', 'better')),
  severity      TEXT NOT NULL CHECK (severity IN ('critical', 'info')),
  state         TEXT NOT NULL CHECK (state IN ('firing', 'resolved')),
  fired_step    INTEGER NOT NULL,
  resolved_step INTEGER,
  change        REAL NOT NULL,
  threshold     REAL NOT NULL,
  resolved_value REAL,
  window        TEXT NOT NULL,     -- JSON list of [step, value, stderr]
  moved         TEXT NOT NULL,     -- the same form: the two evaluations between which the metric moved
  reason        TEXT NOT NULL,
  announce      INTEGER NOT NULL,  -- 0: history from before the rule was configured
  fired_ms      INTEGER NOT NULL,
  resolved_ms   INTEGER
) STRICT;
CREATE INDEX alerts_by_rule ON alerts (run, rule);
CREATE UNIQUE INDEX alerts_open ON alerts (run, rule, direction) WHERE state = 'firing';

-- Written by alerts: this event has been handed to its receivers; one configured later does not hear of it.
CREATE TABLE announcements (
  alert INTEGER NOT NULL REFERENCES alerts (id),
  event TEXT NOT NULL CHECK (event IN ('firing', 'resolved')),
  PRIMARY KEY (alert, event)
) STRICT;

-- Written by alerts.
CREATE TABLE notifications (
  id            INTEGER PRIMARY KEY,
  alert         INTEGER NOT NULL REFERENCES alerts (id),
  event         TEXT NOT NULL CHECK (event IN ('firing', 'resolved')),
  notifier      TEXT NOT NULL,
  state         TEXT NOT NULL CHECK (state IN ('pending', 'sent', 'failed')),
  attempts      INTEGER NOT NULL DEFAULT 0,
  not_before_ms INTEGER NOT NULL DEFAULT 0,
  reason        TEXT NOT NULL DEFAULT '',
  created_ms    INTEGER NOT NULL,
  sent_ms       INTEGER,
  UNIQUE (alert, event, notifier)
) STRICT;
CREATE INDEX notifications_open ON notifications (notifier, id) WHERE state = 'pending';
