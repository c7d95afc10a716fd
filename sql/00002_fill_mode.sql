-- +goose Up
-- How a job keeps to the gate: mode= of its --pipefill, '' where it did not say.
ALTER TABLE fill_job ADD COLUMN mode TEXT NOT NULL DEFAULT '' CHECK (mode IN ('', 'signal', 'chunked'));
