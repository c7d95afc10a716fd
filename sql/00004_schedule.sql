-- +goose Up
-- By when a job's user wants it done, and how long each attempt was thought to take and took: all attempts of which both are known.
ALTER TABLE fill_job ADD COLUMN deadline_ms INTEGER NOT NULL DEFAULT 0;
ALTER TABLE assignment ADD COLUMN expect_ms INTEGER NOT NULL DEFAULT 0;
ALTER TABLE assignment ADD COLUMN expect_from TEXT NOT NULL DEFAULT '';
ALTER TABLE assignment ADD COLUMN took_ms INTEGER NOT NULL DEFAULT 0;
CREATE INDEX assignment_predicted ON assignment (ended_ms) WHERE took_ms > 0;
