-- +goose Up
-- What users have uploaded as fill profiles, by the SHA-256 of the text.
CREATE TABLE fill_profile (
  digest  TEXT PRIMARY KEY CHECK (length(digest) = 64),
  uid     INTEGER NOT NULL,
  name    TEXT NOT NULL,
  text    TEXT NOT NULL,
  seen_ms INTEGER NOT NULL
) STRICT;
CREATE INDEX fill_profile_uid ON fill_profile (uid, seen_ms);
