-- +goose Up
CREATE TABLE fill_job (
  id             INTEGER PRIMARY KEY,
  cluster        TEXT NOT NULL,
  job_id         INTEGER NOT NULL CHECK (job_id > 0),
  submit_ms      INTEGER NOT NULL,
  restarts       INTEGER NOT NULL DEFAULT 0,
  array_task     INTEGER NOT NULL DEFAULT -1,
  name           TEXT NOT NULL,
  uid            INTEGER NOT NULL,
  user           TEXT NOT NULL,
  account        TEXT NOT NULL DEFAULT '',
  partition      TEXT NOT NULL,
  mem_bytes      INTEGER NOT NULL DEFAULT 0,
  limit_ms       INTEGER NOT NULL DEFAULT 0,
  gpus           TEXT NOT NULL DEFAULT '',
  requeue        INTEGER NOT NULL CHECK (requeue IN (0, 1)),
  required_nodes TEXT NOT NULL DEFAULT '',
  excluded_nodes TEXT NOT NULL DEFAULT '',
  unfit          TEXT NOT NULL DEFAULT '',
  user_held      INTEGER NOT NULL DEFAULT 0 CHECK (user_held IN (0, 1)),
  priority       INTEGER NOT NULL DEFAULT 0,
  site_priority  INTEGER NOT NULL DEFAULT 0,
  front          INTEGER NOT NULL DEFAULT 0 CHECK (front IN (0, 1)),
  attempts       INTEGER NOT NULL DEFAULT 0,
  first_ms       INTEGER NOT NULL,
  outcome        TEXT NOT NULL DEFAULT '' CHECK (outcome IN ('', 'completed', 'failed', 'cancelled', 'evicted', 'lost')),
  reason         TEXT NOT NULL DEFAULT '',
  ended_ms       INTEGER NOT NULL DEFAULT 0
) STRICT;
-- A job number is used again after a wrap, so that only among jobs not ended it names one.
CREATE UNIQUE INDEX fill_job_job_id ON fill_job (cluster, job_id) WHERE outcome = '';
CREATE INDEX fill_job_user ON fill_job (user, ended_ms);
CREATE INDEX fill_job_ended_ms ON fill_job (ended_ms) WHERE outcome <> '';

CREATE TABLE assignment (
  id               INTEGER PRIMARY KEY AUTOINCREMENT,
  fill_job_id      INTEGER NOT NULL REFERENCES fill_job (id),
  submit_ms        INTEGER NOT NULL,
  restarts         INTEGER NOT NULL,
  node             TEXT NOT NULL,
  device           TEXT NOT NULL,
  main_job_id      INTEGER NOT NULL,
  main_submit_ms   INTEGER NOT NULL,
  main_restarts    INTEGER NOT NULL,
  state            TEXT NOT NULL CHECK (state IN ('reserved', 'released', 'attached', 'running', 'ended')),
  outcome          TEXT NOT NULL DEFAULT '' CHECK (outcome IN ('', 'completed', 'failed', 'cancelled', 'evicted', 'lost')),
  reason           TEXT NOT NULL DEFAULT '',
  exit_code        INTEGER NOT NULL DEFAULT 0,
  reserved_ms      INTEGER NOT NULL,
  released_ms      INTEGER NOT NULL DEFAULT 0,
  attached_ms      INTEGER NOT NULL DEFAULT 0,
  running_ms       INTEGER NOT NULL DEFAULT 0,
  ended_ms         INTEGER NOT NULL DEFAULT 0,
  CHECK ((state = 'ended') = (outcome <> ''))
) STRICT;
CREATE UNIQUE INDEX assignment_fill_job_id ON assignment (fill_job_id) WHERE state <> 'ended';
CREATE UNIQUE INDEX assignment_node_device ON assignment (node, device) WHERE state <> 'ended';
CREATE UNIQUE INDEX assignment_completed ON assignment (fill_job_id) WHERE outcome = 'completed';
CREATE INDEX assignment_by_job ON assignment (fill_job_id, id);

CREATE TABLE usage (
  node          TEXT NOT NULL,
  ledger        TEXT NOT NULL,
  seq           INTEGER NOT NULL,
  assignment_id INTEGER NOT NULL REFERENCES assignment (id),
  from_ms       INTEGER NOT NULL,
  to_ms         INTEGER NOT NULL,
  device_ns     INTEGER NOT NULL CHECK (device_ns >= 0),
  cpu_ns        INTEGER NOT NULL CHECK (cpu_ns >= 0),
  overrun_ns    INTEGER NOT NULL CHECK (overrun_ns >= 0),
  openings      INTEGER NOT NULL CHECK (openings >= 0),
  PRIMARY KEY (node, ledger, seq)
) STRICT, WITHOUT ROWID;
CREATE INDEX usage_assignment_id ON usage (assignment_id);
CREATE INDEX usage_to_ms ON usage (to_ms);

CREATE TABLE main_device (
  node               TEXT NOT NULL,
  device             TEXT NOT NULL,
  job_id             INTEGER NOT NULL,
  submit_ms          INTEGER NOT NULL,
  restarts           INTEGER NOT NULL,
  started_ms         INTEGER NOT NULL,
  seen_ms            INTEGER NOT NULL,
  iterations         INTEGER NOT NULL,
  control_iterations INTEGER NOT NULL,
  bubble_ns          INTEGER NOT NULL,
  offered_ns         INTEGER NOT NULL,
  filled_ns          INTEGER NOT NULL,
  overhead_lo        REAL NOT NULL,
  overhead_hi        REAL NOT NULL,
  PRIMARY KEY (node, device, job_id, started_ms)
) STRICT, WITHOUT ROWID;
CREATE INDEX main_device_seen_ms ON main_device (seen_ms);
