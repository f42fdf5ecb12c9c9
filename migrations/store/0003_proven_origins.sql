-- 1: this machine itself got the manifest from there, or sent it there. 0: whoever brought it said that it is from there.
-- What was recorded before this column was of both kinds, so it counts as said until it is pulled or looked up again.
ALTER TABLE origins ADD COLUMN proven INTEGER NOT NULL DEFAULT 0;
