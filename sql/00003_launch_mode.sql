-- +goose Up
-- mode= may be launch too. A column's own CHECK goes with the column.
ALTER TABLE fill_job ADD COLUMN mode_now TEXT NOT NULL DEFAULT '' CHECK (mode_now IN ('', 'signal', 'chunked', 'launch'));
UPDATE fill_job SET mode_now = mode;
ALTER TABLE fill_job DROP COLUMN mode;
ALTER TABLE fill_job RENAME COLUMN mode_now TO mode;
