-- What the store lists beside its blobs. Digests are `<algorithm>:<hex>`, times are Unix milliseconds.
-- Append-only: a change to the schema is a new file.

-- `generation` counts committed changes; `written` is the generation that index.json shows. index.json is
-- behind while they differ. `imported` is 1 once what the layout held before this database has been read in.
CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO meta (key, value) VALUES ('generation', 1), ('written', 0), ('imported', 0);

CREATE TABLE manifests (
    digest            TEXT PRIMARY KEY,
    media_type        TEXT NOT NULL,
    size              INTEGER NOT NULL,
    artifact_type     TEXT,
    config_media_type TEXT,
    subject           TEXT,
    annotations       TEXT,
    created_at        INTEGER NOT NULL,
    last_used         INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX manifests_subject ON manifests (subject) WHERE subject IS NOT NULL;

-- `signs` is the digest in a tag of the form `sha256-<hex>.sig` (or `.att`, `.sbom`): what the tagged manifest is about.
CREATE TABLE tags (
    name       TEXT PRIMARY KEY,
    digest     TEXT NOT NULL REFERENCES manifests (digest) ON DELETE CASCADE,
    signs      TEXT,
    updated_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX tags_digest ON tags (digest);
CREATE INDEX tags_signs ON tags (signs) WHERE signs IS NOT NULL;

-- What a manifest lists, in order: kind is `config`, `layer` or `manifest` (a child of an index, which may be absent).
CREATE TABLE edges (
    parent     TEXT NOT NULL REFERENCES manifests (digest) ON DELETE CASCADE,
    position   INTEGER NOT NULL,
    child      TEXT NOT NULL,
    kind       TEXT NOT NULL,
    size       INTEGER NOT NULL,
    media_type TEXT NOT NULL,
    PRIMARY KEY (parent, position)
) STRICT, WITHOUT ROWID;
CREATE INDEX edges_child ON edges (child);

-- `host[:port]/repository` that a manifest was pulled from or pushed to.
CREATE TABLE origins (
    digest     TEXT NOT NULL REFERENCES manifests (digest) ON DELETE CASCADE,
    repository TEXT NOT NULL,
    PRIMARY KEY (digest, repository)
) STRICT, WITHOUT ROWID;
