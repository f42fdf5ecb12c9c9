-- What the node's own registry shows, repository by repository. The store is one; a repository shows what was pushed or
-- mounted into it and nothing else. Its tags stand in `tags`, as `vyr.localhost/<repository>:<tag>` (docs/adr/0008).

CREATE TABLE repository_manifests (
    repository TEXT NOT NULL,
    digest     TEXT NOT NULL REFERENCES manifests (digest) ON DELETE CASCADE,
    PRIMARY KEY (repository, digest)
) STRICT, WITHOUT ROWID;
CREATE INDEX repository_manifests_digest ON repository_manifests (digest);

-- A blob may be here before a manifest names it: a collection keeps it for a day from `added_at`.
CREATE TABLE repository_blobs (
    repository TEXT NOT NULL,
    digest     TEXT NOT NULL,
    added_at   INTEGER NOT NULL,
    PRIMARY KEY (repository, digest)
) STRICT, WITHOUT ROWID;
CREATE INDEX repository_blobs_digest ON repository_blobs (digest);
CREATE INDEX repository_blobs_added ON repository_blobs (added_at);
