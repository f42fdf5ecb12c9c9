//! States: the doors, the classes and their guarantees, with and without a node; synced ones also by the operations that
//! the built `vyr` is made of.

mod classes;
mod collector;
mod folder;
mod keys;
mod kills;
mod power;
mod sync;

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;
use vyr::config::{Config, Flags};
use vyr::ops::state::CreateRequest;
use vyr::ops::{Silent, Vyr, state};
use vyr::state::{Mode, OnBusy, StateClass, StateHandle, StateKind};

use crate::support::{Home, Output};

/// A synced state of a home, written to as the engine's door does it.
#[derive(Debug)]
pub(crate) struct Synced {
    pub(crate) vyr: Vyr,
    name: String,
}

impl Synced {
    /// Opens one that is there.
    pub(crate) fn open(home: &Path, name: &str) -> Self {
        let config = Config::load(Flags { home: Some(home.to_owned()), ..Flags::default() }).unwrap();
        Self { vyr: Vyr::new(config, Arc::new(Silent)), name: name.to_owned() }
    }

    /// Makes one.
    pub(crate) async fn create(home: &Home, name: &str, target: &str, quota_bytes: u64) -> Self {
        let this = Self::open(&home.vyr_home(), name);
        let request = CreateRequest {
            name: name.to_owned(),
            class: StateClass::Synced,
            kind: StateKind::Files,
            quota_bytes,
            time_to_live: None,
            target: Some(target.to_owned()),
        };
        state::create(&this.vyr, request).await.unwrap();
        this
    }

    pub(crate) async fn state(&self) -> vyr::state::State {
        self.vyr.states().await.unwrap().get(&self.name).await.unwrap()
    }

    pub(crate) async fn writer(&self) -> Arc<StateHandle> {
        let state = self.state().await;
        let states = self.vyr.states().await.unwrap();
        let handle = states.attach(&state, "test", Mode::ReadWrite, OnBusy::Wait).await.unwrap();
        fs::create_dir_all(handle.data().join("outbox")).unwrap();
        handle
    }

    /// Puts records into the outbox.
    pub(crate) async fn records(&self, names: impl IntoIterator<Item = String>) {
        let handle = self.writer().await;
        for name in names {
            record(&handle, &name, format!("the content of {name}").as_bytes());
        }
        handle.release().unwrap();
    }

    /// Writes a file, as a guest that counts it.
    pub(crate) async fn file(&self, name: &str, content: &[u8]) {
        let handle = self.writer().await;
        let path = handle.data().join(name);
        let before = fs::metadata(&path).map_or(0, |found| found.len());
        handle.usage().change(before, content.len() as u64).unwrap();
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
        handle.release().unwrap();
    }
}

/// One record.
pub(crate) fn record(handle: &StateHandle, name: &str, content: &[u8]) {
    handle.usage().grow(content.len() as u64).unwrap();
    handle.usage().add_entry().unwrap();
    fs::write(handle.data().join("outbox").join(name), content).unwrap();
    handle.take_outbox(OsStr::new(name)).unwrap();
}

/// The one JSON document that it printed.
#[track_caller]
pub(crate) fn json(output: &Output) -> Value {
    serde_json::from_str(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"))
}

/// `vyr state sync NAME`.
pub(crate) fn sync(home: &Home, name: &str) -> Output {
    home.vyr(["state", "sync", name, "--output", "json"])
}

/// `vyr state pull REPO --to DIR`, without a policy that could refuse.
pub(crate) fn pull(home: &Home, repository: &str, to: &str) -> Output {
    home.vyr(["state", "pull", repository, "--to", to, "--allow-unsigned", "--output", "json"])
}

/// The records under a pulled folder, in their order: place and name, and that the content is the name's.
#[track_caller]
pub(crate) fn records_in(folder: &Path) -> Vec<(u64, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder.join("outbox")).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
        let entry = entry.unwrap();
        let file_name = entry.file_name().into_string().unwrap();
        let (place, name) = file_name.split_once('-').unwrap();
        assert_eq!(fs::read_to_string(entry.path()).unwrap(), format!("the content of {name}"));
        found.push((place.parse().unwrap(), name.to_owned()));
    }
    found.sort();
    found
}
