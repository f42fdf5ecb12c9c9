-- Where each synced state's own chain of segments stands.
CREATE TABLE chain (
    state BLOB NOT NULL PRIMARY KEY REFERENCES state (id) ON DELETE CASCADE,
    -- The state's identity wherever its chain is gone on with; another than `state` where it was pulled from elsewhere.
    lineage TEXT NOT NULL,
    -- What this node's first segment follows: the last segment of another writer, or nothing.
    base_seq INTEGER NOT NULL,
    base_digest BLOB,
    -- The last segment sealed, and the last one pushed.
    sealed_seq INTEGER NOT NULL,
    sealed_digest BLOB,
    pushed_seq INTEGER NOT NULL,
    synced_us INTEGER,
    error TEXT,
    -- Other writers that went on from a place which this one went on from, as JSON.
    forks TEXT NOT NULL DEFAULT '[]'
) STRICT, WITHOUT ROWID;

-- Segments whose content this node has: those to be pushed, and those that were and are kept.
CREATE TABLE segment (
    state BLOB NOT NULL REFERENCES state (id) ON DELETE CASCADE,
    seq INTEGER NOT NULL,
    digest BLOB NOT NULL,
    previous BLOB,
    layer BLOB NOT NULL,
    -- Of the layer, and of the file that it is made from, in bytes.
    size INTEGER NOT NULL,
    held INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    -- Of a record, as the guest called it.
    name BLOB NOT NULL,
    sealed_us INTEGER NOT NULL,
    pushed_us INTEGER,
    PRIMARY KEY (state, seq)
) STRICT, WITHOUT ROWID;

CREATE INDEX segment_pending ON segment (state, seq) WHERE pushed_us IS NULL;
