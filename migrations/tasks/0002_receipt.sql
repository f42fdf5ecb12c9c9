-- The signed receipt of a task that ended: the node's signature and the statement that it signs.
ALTER TABLE task ADD COLUMN receipt BLOB;
