-- The node's tasks. `spec` is an encoded vyr.control.v0.TaskSpec, `record` an encoded vyr.control.v0.Task without its
-- spec: the frozen interface is the schema, and additions to it need no migration. The columns are what is looked for.
CREATE TABLE task (
    seq          INTEGER PRIMARY KEY,   -- in the order of submits; given out by the one writer
    id           BLOB    NOT NULL,      -- UUID version 7, 16 bytes
    status       INTEGER NOT NULL,      -- vyr.control.v0.TaskStatus
    submitted_us INTEGER NOT NULL,      -- since the Unix epoch
    ended_us     INTEGER,               -- NULL while it has not ended
    submitter    TEXT    NOT NULL,
    idem_key     TEXT,
    idem_hash    BLOB,                  -- SHA-256 of what was submitted under the key
    spec         BLOB    NOT NULL,
    record       BLOB,
    log          BLOB                   -- its output where that is short; else it is a file in logs/
) STRICT;

CREATE UNIQUE INDEX task_id ON task (id);
CREATE UNIQUE INDEX task_idem ON task (submitter, idem_key) WHERE idem_key IS NOT NULL;
-- What has to be taken up again at a start.
CREATE INDEX task_open ON task (seq) WHERE ended_us IS NULL;
