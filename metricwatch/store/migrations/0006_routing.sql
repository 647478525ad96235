-- Who is told of an alert is decided when it is first seen; what they were told is compared with what is.

-- Written by alerts: the alerts that were seen, and the newest state of each that the log has.
CREATE TABLE routed_alerts (
  alert INTEGER PRIMARY KEY REFERENCES alerts (id),
  state TEXT NOT NULL CHECK (state IN ('firing', 'resolved'))
) STRICT;

-- Written by alerts: what each receiver was told of an alert. One configured later does not hear of it.
CREATE TABLE alert_receivers (
  alert    INTEGER NOT NULL REFERENCES alerts (id),
  receiver TEXT NOT NULL,
  told     TEXT NOT NULL DEFAULT '' CHECK (told IN ('', 'firing', 'resolved')),
  told_ms  INTEGER,                      -- NULL: before there were reminders, or never
  due_ms   INTEGER,                      -- since when there is something to tell that nobody silenced
  held     TEXT NOT NULL DEFAULT '',     -- why it is not told now: for people
  quiet    INTEGER NOT NULL DEFAULT 0,   -- 1: quiet hours held it, so it belongs into their digest
  closed   INTEGER NOT NULL DEFAULT 0,   -- 1: there is nothing left to tell
  PRIMARY KEY (alert, receiver)
) STRICT;
CREATE INDEX alert_receivers_open ON alert_receivers (alert) WHERE NOT closed;

-- Written by alerts: messages, and which alerts each tells.
CREATE TABLE notifications_now (
  id            INTEGER PRIMARY KEY,
  receiver      TEXT NOT NULL,
  group_key     TEXT NOT NULL,   -- JSON object of the labels that its alerts share; with "..." each alert's own
  event         TEXT NOT NULL CHECK (event IN ('firing', 'resolved', 'reminder', 'digest')),
  -- withdrawn: silenced before it arrived; what it tells is due again when the silence is over
  state         TEXT NOT NULL CHECK (state IN ('pending', 'sent', 'failed', 'withdrawn')),
  attempts      INTEGER NOT NULL DEFAULT 0,
  not_before_ms INTEGER NOT NULL DEFAULT 0,
  reason        TEXT NOT NULL DEFAULT '',
  note          TEXT NOT NULL DEFAULT '',
  created_ms    INTEGER NOT NULL,
  sent_ms       INTEGER,
  instead_of    INTEGER REFERENCES notifications (id)
) STRICT;
CREATE TABLE notification_alerts (
  notification INTEGER NOT NULL REFERENCES notifications (id),
  alert        INTEGER NOT NULL REFERENCES alerts (id),
  event        TEXT NOT NULL CHECK (event IN ('firing', 'resolved', 'reminder')),
  PRIMARY KEY (notification, alert)
) STRICT, WITHOUT ROWID;
CREATE INDEX notification_alerts_by_alert ON notification_alerts (alert);

INSERT INTO notifications_now (id, receiver, group_key, event, state, attempts, not_before_ms, reason, created_ms, sent_ms)
  SELECT id, notifier, '{}', event, state, attempts, not_before_ms, reason, created_ms, sent_ms FROM notifications;
INSERT INTO notification_alerts (notification, alert, event) SELECT id, alert, event FROM notifications;
INSERT INTO routed_alerts (alert, state)
  SELECT alert, CASE max(event = 'resolved') WHEN 1 THEN 'resolved' ELSE 'firing' END FROM announcements GROUP BY alert;
-- Whoever was told that it fires hears of its end, and a receiver that came between the two heard of the end alone.
INSERT INTO alert_receivers (alert, receiver, told, closed)
  SELECT n.alert, n.notifier, routed.state, routed.state = 'resolved'
    FROM notifications AS n JOIN routed_alerts AS routed ON routed.alert = n.alert GROUP BY n.alert, n.notifier;
DROP TABLE announcements;
DROP TABLE notifications;
ALTER TABLE notifications_now RENAME TO notifications;
CREATE INDEX notifications_open ON notifications (receiver, id) WHERE state = 'pending';
CREATE INDEX notifications_by_group ON notifications (receiver, group_key, id);
CREATE INDEX notifications_sent ON notifications (receiver, sent_ms) WHERE sent_ms IS NOT NULL;

-- Written by `metricwatch silence`.
CREATE TABLE silences (
  id         INTEGER PRIMARY KEY,
  matchers   TEXT NOT NULL,      -- JSON list; empty: everything
  author     TEXT NOT NULL,
  comment    TEXT NOT NULL,
  created_ms INTEGER NOT NULL,
  starts_ms  INTEGER NOT NULL,
  ends_ms    INTEGER NOT NULL
) STRICT;
CREATE INDEX silences_by_end ON silences (ends_ms);
