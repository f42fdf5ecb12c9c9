//! Owns the names of what stands in the data folder.

use std::path::{Path, PathBuf};

use crate::oci::Digest;

/// The data folder (`VYR_HOME`).
///
/// | entry | what it is | who writes it |
/// | --- | --- | --- |
/// | `store/` | an OCI image layout: everything pulled, put or pushed | `store` |
/// | `ingest/`, `leases/`, `store.lock` | writes under way | `store` |
/// | `db/vyr.sqlite` | the index over the layout | `store` |
/// | `db/tasks.sqlite` | the node's tasks | `db` |
/// | `db/state.sqlite`, `state/` | states: what there is, and their data | `state` |
/// | `logs/` | long outputs of tasks | `node` |
/// | `snapshots/` | unpacked layers of images | `ops` |
/// | `node.lock`, `node.sock` | who serves this folder, and where | `node`, `server` |
/// | `node.address` | the address that its registry has, or had last | `ops` |
/// | `cache/code-v1/` | compiled code | `engine` |
/// | `cache/ready/` | what was verified, for which policy | `ops` |
/// | `keys/` | this machine's signing key, and the secret its caches are sealed with | `config` |
/// | `keys/roots/` | trusted roots that came with a bundle's policy | `ops` |
/// | `trust.toml` | the trust policy | `vyr trust` |
/// | `config.toml` | settings | the user |
/// | `audit.jsonl` | runs that went round the trust policy | `ops` |
/// | `aside/` | what was damaged, as `vyr doctor --repair` found it | `sqlite`, `ops` |
#[derive(Debug, Clone)]
pub struct Home(PathBuf);

impl Home {
    /// A data folder at `root`; nothing is made.
    #[must_use]
    pub fn new(root: PathBuf) -> Self {
        Self(root)
    }

    /// The folder itself.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.0
    }

    /// `config.toml`.
    #[must_use]
    pub fn config_file(&self) -> PathBuf {
        self.0.join("config.toml")
    }

    /// `trust.toml`.
    #[must_use]
    pub fn trust_file(&self) -> PathBuf {
        self.0.join("trust.toml")
    }

    /// The node's tasks.
    #[must_use]
    pub fn tasks_database(&self) -> PathBuf {
        self.0.join("db/tasks.sqlite")
    }

    /// The output of a task, where it is long.
    #[must_use]
    pub fn task_log(&self, id: &str) -> PathBuf {
        // The end of an id is random; its beginning is the time.
        let shard = id.get(id.len().saturating_sub(2)..).unwrap_or("00");
        self.0.join("logs").join(shard).join(format!("{id}.log"))
    }

    /// The lock of the node that serves this folder.
    #[must_use]
    pub fn node_lock(&self) -> PathBuf {
        self.0.join("node.lock")
    }

    /// The address of the node that serves this folder; locked while it does.
    #[must_use]
    pub fn node_address(&self) -> PathBuf {
        self.0.join("node.address")
    }

    /// The node's Unix socket.
    #[must_use]
    pub fn node_socket(&self) -> PathBuf {
        self.0.join("node.sock")
    }

    /// `audit.jsonl`.
    #[must_use]
    pub fn audit_file(&self) -> PathBuf {
        self.0.join("audit.jsonl")
    }

    /// The folder that the code cache makes its own folder in.
    #[must_use]
    pub fn cache(&self) -> PathBuf {
        self.0.join("cache")
    }

    /// What was found out of this machine and containers.
    #[must_use]
    pub fn machine_memo(&self) -> PathBuf {
        self.0.join("cache/machine.json")
    }

    /// Layers of images, unpacked.
    #[must_use]
    pub fn snapshots(&self) -> PathBuf {
        self.0.join("snapshots")
    }

    /// The folder of what was proven about one manifest.
    #[must_use]
    pub fn ready(&self, manifest: &Digest) -> PathBuf {
        self.0.join("cache/ready").join(format!("{}-{}", manifest.algorithm(), manifest.digest()))
    }

    /// This machine's private signing key.
    #[must_use]
    pub fn machine_key(&self) -> PathBuf {
        self.0.join("keys/machine.key")
    }

    /// Its public half.
    #[must_use]
    pub fn machine_public_key(&self) -> PathBuf {
        self.0.join("keys/machine.pub")
    }

    /// The secret that seals this node's caches.
    #[must_use]
    pub fn node_secret(&self) -> PathBuf {
        self.0.join("keys/node.secret")
    }
}
