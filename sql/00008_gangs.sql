-- +goose Up
-- Fill jobs with several devices of one node, which they hold and lose together.
ALTER TABLE fill_job ADD COLUMN devices INTEGER NOT NULL DEFAULT 1 CHECK (devices >= 1);
ALTER TABLE assignment ADD COLUMN others TEXT NOT NULL DEFAULT '';

-- The devices that fill jobs hold: one row each, in the transaction of the reservation, until that of the end.
CREATE TABLE occupied (
  node          TEXT NOT NULL,
  device        TEXT NOT NULL,
  assignment_id INTEGER NOT NULL REFERENCES assignment (id),
  PRIMARY KEY (node, device)
) STRICT, WITHOUT ROWID;
CREATE INDEX occupied_assignment_id ON occupied (assignment_id);
INSERT INTO occupied (node, device, assignment_id) SELECT node, device, id FROM assignment WHERE state <> 'ended';
DROP INDEX assignment_node_device;
