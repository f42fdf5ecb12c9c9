-- What states there are. Their data is in folders of their own; nothing here changes while a guest works.
CREATE TABLE state (
    id BLOB NOT NULL PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    class INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    quota INTEGER NOT NULL,
    created_us INTEGER NOT NULL,
    expires_us INTEGER,
    target TEXT,
    -- As it was when the last writer let go of it.
    used INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

CREATE INDEX state_expires ON state (expires_us) WHERE expires_us IS NOT NULL;

-- Which artifacts get which states by themselves.
CREATE TABLE binding (
    artifact TEXT NOT NULL,
    alias TEXT NOT NULL,
    state BLOB NOT NULL REFERENCES state (id) ON DELETE CASCADE,
    read_only INTEGER NOT NULL,
    PRIMARY KEY (artifact, alias)
) STRICT, WITHOUT ROWID;

CREATE INDEX binding_state ON binding (state);
