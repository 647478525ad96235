-- What is to be drawn of an evaluation. Born with it, its content fixed; state, attempts and reason belong to figures.
CREATE TABLE figures (
  id            INTEGER PRIMARY KEY,
  run           TEXT NOT NULL REFERENCES runs (key),
  job           INTEGER NOT NULL REFERENCES jobs (id),  -- in whose folder its materials lie
  evaluation    INTEGER NOT NULL REFERENCES evaluations (id),
  kind          TEXT NOT NULL CHECK (kind IN ('contact_sheet', 'comparison', 'radar', 'lookalikes')),
  key           TEXT NOT NULL,
  step          INTEGER NOT NULL,
  timestamp_ms  INTEGER NOT NULL,
  content       TEXT NOT NULL,  -- JSON object; paths in it as seen from the state folder
  state         TEXT NOT NULL CHECK (state IN ('pending', 'drawn', 'failed')),
  attempts      INTEGER NOT NULL DEFAULT 0,
  not_before_ms INTEGER NOT NULL DEFAULT 0,
  reason        TEXT NOT NULL DEFAULT '',
  created_ms    INTEGER NOT NULL,
  drawn_ms      INTEGER,
  UNIQUE (evaluation, kind)
) STRICT;
CREATE INDEX figures_pending ON figures (run, id) WHERE state = 'pending';
CREATE INDEX figures_materials ON figures (job) WHERE state = 'pending';
CREATE INDEX figures_drawn ON figures (drawn_ms) WHERE state = 'drawn';
CREATE INDEX figures_failed ON figures (id) WHERE state = 'failed';
