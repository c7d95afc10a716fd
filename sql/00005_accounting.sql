-- +goose Up
-- Sums by hour, day and month of the site's time zone, kept when the rows that they sum up are purged.
CREATE TABLE rollup (
  kind                TEXT NOT NULL CHECK (kind IN ('cluster', 'user', 'job', 'main', 'node')),
  grain               TEXT NOT NULL CHECK (grain IN ('hour', 'day', 'month')),
  start_ms            INTEGER NOT NULL,
  key                 TEXT NOT NULL,
  account             TEXT NOT NULL DEFAULT '',
  user                TEXT NOT NULL DEFAULT '',
  completed           INTEGER NOT NULL DEFAULT 0,
  failed              INTEGER NOT NULL DEFAULT 0,
  cancelled           INTEGER NOT NULL DEFAULT 0,
  evicted             INTEGER NOT NULL DEFAULT 0,
  lost                INTEGER NOT NULL DEFAULT 0,
  device_ns           INTEGER NOT NULL DEFAULT 0,
  overrun_ns          INTEGER NOT NULL DEFAULT 0,
  useful_ns           INTEGER NOT NULL DEFAULT 0,
  cpu_ns              INTEGER NOT NULL DEFAULT 0,
  openings            INTEGER NOT NULL DEFAULT 0,
  main_ns             INTEGER NOT NULL DEFAULT 0,
  iterations          INTEGER NOT NULL DEFAULT 0,
  control_iterations  INTEGER NOT NULL DEFAULT 0,
  bubble_ns           INTEGER NOT NULL DEFAULT 0,
  offered_ns          INTEGER NOT NULL DEFAULT 0,
  comm_ns             INTEGER NOT NULL DEFAULT 0,
  other_ns            INTEGER NOT NULL DEFAULT 0,
  filled_iteration_ns INTEGER NOT NULL DEFAULT 0,
  judged_ns           INTEGER NOT NULL DEFAULT 0,
  slow_ns             INTEGER NOT NULL DEFAULT 0,
  slow_lo_ns          INTEGER NOT NULL DEFAULT 0,
  slow_hi_ns          INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (kind, grain, start_ms, key, account)
) STRICT, WITHOUT ROWID;

-- Up to which record of a ledger the rows of usage have been purged: such a record is not counted again.
CREATE TABLE ledger (
  node   TEXT NOT NULL,
  ledger TEXT NOT NULL,
  purged INTEGER NOT NULL,
  PRIMARY KEY (node, ledger)
) STRICT, WITHOUT ROWID;

-- A daemon that starts again counts from nothing: its totals are a row of their own.
CREATE TABLE main_total (
  node                TEXT NOT NULL,
  device              TEXT NOT NULL,
  job_id              INTEGER NOT NULL,
  started_ms          INTEGER NOT NULL,
  run                 INTEGER NOT NULL,
  submit_ms           INTEGER NOT NULL,
  restarts            INTEGER NOT NULL,
  uid                 INTEGER NOT NULL,
  stage               INTEGER NOT NULL,
  seen_ms             INTEGER NOT NULL,
  iterations          INTEGER NOT NULL,
  control_iterations  INTEGER NOT NULL,
  iteration_ns        INTEGER NOT NULL,
  bubble_ns           INTEGER NOT NULL,
  offered_ns          INTEGER NOT NULL,
  comm_ns             INTEGER NOT NULL,
  other_ns            INTEGER NOT NULL,
  filled_iteration_ns INTEGER NOT NULL,
  overhead_lo         REAL NOT NULL,
  overhead_hi         REAL NOT NULL,
  PRIMARY KEY (node, device, job_id, started_ms, run)
) STRICT, WITHOUT ROWID;
CREATE INDEX main_total_seen_ms ON main_total (seen_ms);
DROP TABLE main_device;

-- Every order of an operator, and every switch.
CREATE TABLE audit (
  id     INTEGER PRIMARY KEY AUTOINCREMENT,
  at_ms  INTEGER NOT NULL,
  uid    INTEGER NOT NULL,
  user   TEXT NOT NULL,
  action TEXT NOT NULL,
  target TEXT NOT NULL,
  detail TEXT NOT NULL DEFAULT '',
  why    TEXT NOT NULL DEFAULT '',
  result TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE INDEX audit_at_ms ON audit (at_ms);

-- What is not to be filled: the whole site, a node, or an account's jobs.
CREATE TABLE drain (
  kind     TEXT NOT NULL CHECK (kind IN ('site', 'node', 'account')),
  name     TEXT NOT NULL,
  user     TEXT NOT NULL,
  why      TEXT NOT NULL,
  since_ms INTEGER NOT NULL,
  evict    INTEGER NOT NULL CHECK (evict IN (0, 1)),
  PRIMARY KEY (kind, name)
) STRICT, WITHOUT ROWID;
