-- When a client's cancel was answered before the task had ended: a node that dies meanwhile doesn't take it up again.
ALTER TABLE task ADD COLUMN cancel_asked_us INTEGER;   -- since the Unix epoch
