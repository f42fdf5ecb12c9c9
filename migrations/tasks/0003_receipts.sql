-- Receipts in a table of their own: beside its receipt a task's row filled a page by itself. They go when their task does.
CREATE TABLE receipt (
    seq     INTEGER PRIMARY KEY,   -- task.seq
    receipt BLOB NOT NULL          -- the node's signature and the statement that it signs
) STRICT;
INSERT INTO receipt (seq, receipt) SELECT seq, receipt FROM task WHERE receipt IS NOT NULL ORDER BY seq;
ALTER TABLE task DROP COLUMN receipt;
CREATE TRIGGER task_forgotten AFTER DELETE ON task BEGIN
    DELETE FROM receipt WHERE seq = OLD.seq;
END;
