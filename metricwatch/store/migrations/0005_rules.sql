-- Alerts of every kind of rule, with labels, and a severity between the two. (SQLite cannot change a CHECK.)
CREATE TABLE alerts_now (
  id             INTEGER PRIMARY KEY,
  run            TEXT NOT NULL REFERENCES runs (key),
  rule           TEXT NOT NULL,
  kind           TEXT NOT NULL,     -- the rule's telling key: moves, above, stale ...
  metric         TEXT NOT NULL,     -- '' for an alert about the run as a whole
  direction      TEXT NOT NULL CHECK (direction IN ('worse', 'better')),
  severity       TEXT NOT NULL CHECK (severity IN ('critical', 'warning', 'info')),
  labels         TEXT NOT NULL,     -- JSON object: the rule's own
  state          TEXT NOT NULL CHECK (state IN ('firing', 'resolved')),
  fired_step     INTEGER NOT NULL,
  resolved_step  INTEGER,
  change         REAL NOT NULL,
  threshold      REAL NOT NULL,
  resolved_value REAL,
  window         TEXT NOT NULL,     -- JSON list of [step, value, stderr]
  moved          TEXT NOT NULL,     -- the same form: the two evaluations between which the metric moved
  what           TEXT NOT NULL,     -- what happened, in words, where it is not a movement, and why; '' where it is
  detail         TEXT NOT NULL,
  reason         TEXT NOT NULL,
  announce       INTEGER NOT NULL,  -- 0: history from before the rule was configured
  changes        INTEGER NOT NULL DEFAULT 0,  -- how often it was amended or resolved
  fired_ms       INTEGER NOT NULL,
  resolved_ms    INTEGER
) STRICT;
INSERT INTO alerts_now (id, run, rule, kind, metric, direction, severity, labels, state, fired_step, resolved_step, change,
    threshold, resolved_value, window, moved, what, detail, reason, announce, fired_ms, resolved_ms)
  SELECT id, run, rule, CASE what WHEN '' THEN 'moves' ELSE 'state' END, metric, direction, severity, '{}', state,
    fired_step, resolved_step, change, threshold, resolved_value, window, moved, what, detail, reason, announce, fired_ms,
    resolved_ms FROM alerts;
DROP TABLE alerts;
ALTER TABLE alerts_now RENAME TO alerts;
CREATE INDEX alerts_by_rule ON alerts (run, rule);
CREATE UNIQUE INDEX alerts_open ON alerts (run, rule, direction) WHERE state = 'firing';

CREATE INDEX evaluations_by_arrival ON evaluations (run);

-- For how long a daemon has watched a run since its last evaluation: the next one goes on from there.
CREATE TABLE watched_time (
  run        TEXT NOT NULL REFERENCES runs (key) ON DELETE CASCADE,
  metric     TEXT NOT NULL,     -- '' for evaluations, whatever they scored
  evaluation INTEGER NOT NULL,  -- the last one, 0 before the first
  seconds    REAL NOT NULL,
  PRIMARY KEY (run, metric)
) STRICT;

-- When export learned that the training job had finished well; NULL while it may go on.
ALTER TABLE remote_runs ADD COLUMN ended_ms INTEGER;

-- Written by export: files beside a run that are made anew when what they show has changed.
CREATE TABLE pages (
  sink          TEXT NOT NULL,
  run           TEXT NOT NULL REFERENCES runs (key),
  name          TEXT NOT NULL,
  shows         TEXT NOT NULL DEFAULT '',  -- what the copy at the sink shows
  attempts      INTEGER NOT NULL DEFAULT 0,
  not_before_ms INTEGER NOT NULL DEFAULT 0,
  reason        TEXT NOT NULL DEFAULT '',
  sent_ms       INTEGER,
  PRIMARY KEY (sink, run, name)
) STRICT;
