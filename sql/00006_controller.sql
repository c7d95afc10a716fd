-- +goose Up
-- Whose database it is: each controller that takes over has a higher generation,
-- and every write checks that no later one has come (controller/lease).
CREATE TABLE controller (
  one        INTEGER PRIMARY KEY CHECK (one = 1),
  generation INTEGER NOT NULL
) STRICT;
-- Whether a number was seen before, for each job that is new.
CREATE INDEX fill_job_number ON fill_job (cluster, job_id, id);
