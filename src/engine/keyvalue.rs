//! Owns `wasi:keyvalue`: the states of kind `kv` that are bound, as components see them.
//!
//! A guest's thread does the work itself: it is short, and waits for no disk (what does is said in [`crate::state`]).

use std::io;
use std::sync::Arc;

use wasmtime::component::{HasData, Linker, Resource, ResourceTable, ResourceTableError};
use wasmtime_wasi::WasiView as _;

use super::run::State;
use super::spec::StateDoor;
use crate::state::{KvStore, Seen, StateError, StateHandle};

/// The version of `wasi:keyvalue` that is provided, as in `wit/keyvalue.wit`.
pub(super) const VERSION: &str = "0.2.0-draft2";

/// Open buckets and swaps that a guest may have at once: they live in this process's memory.
const MOST_HANDLES: usize = 1000;

/// Keys of one batch.
const MOST_IN_BATCH: usize = 10_000;

/// Keys and values of one answer together, in bytes.
const MOST_ANSWERED: usize = 64 << 20;

/// Keys of one page.
const PAGE: usize = 4096;

mod generated {
    wasmtime::component::bindgen!({
        path: "wit",
        world: "wasi:keyvalue/imports",
        imports: { default: trappable },
        with: {
            "wasi:keyvalue/store.bucket": super::Bucket,
            "wasi:keyvalue/atomics.cas": super::Cas,
        },
        trappable_error_type: {
            "wasi:keyvalue/store.error" => super::Failure,
            "wasi:keyvalue/atomics.cas-error" => super::SwapFailure,
        },
    });
}

use generated::wasi::keyvalue::{atomics, batch, store};

/// A state that a guest has opened.
#[derive(Debug)]
#[expect(unreachable_pub, reason = "the generated module hands it on")]
pub struct Bucket(Arc<KvStore>);

/// What a guest has taken down for a swap.
#[derive(Debug)]
#[expect(unreachable_pub, reason = "the generated module hands it on")]
pub struct Cas {
    store: Arc<KvStore>,
    seen: Seen,
}

/// Why a call did nothing.
#[derive(Debug)]
pub(super) enum Failure {
    NoSuchStore,
    AccessDenied,
    Other(String),
}

/// Why a swap did nothing.
#[derive(Debug)]
pub(super) enum SwapFailure {
    Store(Failure),
    Set(Resource<Cas>),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::PermissionDenied => Self::AccessDenied,
            _ => Self::Other(error.to_string()),
        }
    }
}

impl From<ResourceTableError> for Failure {
    fn from(error: ResourceTableError) -> Self {
        Self::Other(error.to_string())
    }
}

impl<E: Into<Failure>> From<E> for SwapFailure {
    fn from(error: E) -> Self {
        Self::Store(error.into())
    }
}

/// The states of one guest, and what it has open of them.
#[derive(Debug, Default)]
pub(super) struct Keys {
    doors: Vec<(String, Arc<StateHandle>)>,
    handles: usize,
}

impl Keys {
    pub(super) fn of(doors: &[StateDoor]) -> Self {
        let doors = doors.iter().map(|door| (door.alias.clone(), Arc::clone(&door.handle))).collect();
        Self { doors, handles: 0 }
    }
}

/// What the calls work on.
pub(super) struct View<'a> {
    keys: &'a mut Keys,
    table: &'a mut ResourceTable,
}

struct HasKeys;

impl HasData for HasKeys {
    type Data<'a> = View<'a>;
}

/// Provides the interfaces.
pub(super) fn add_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    fn view(state: &mut State) -> View<'_> {
        state.called = true;
        View { keys: &mut state.keys, table: state.wasi.ctx().table }
    }
    store::add_to_linker::<_, HasKeys>(linker, view)?;
    atomics::add_to_linker::<_, HasKeys>(linker, view)?;
    batch::add_to_linker::<_, HasKeys>(linker, view)
}

impl View<'_> {
    fn bucket(&self, bucket: &Resource<Bucket>) -> Result<&Arc<KvStore>, Failure> {
        Ok(&self.table.get(bucket)?.0)
    }

    fn push<T: Send + 'static>(&mut self, value: T) -> Result<Resource<T>, Failure> {
        if self.keys.handles >= MOST_HANDLES {
            return Err(Failure::Other(format!("a guest may have {MOST_HANDLES} buckets and swaps open at once")));
        }
        let pushed = self.table.push(value)?;
        self.keys.handles += 1;
        Ok(pushed)
    }

    fn remove<T: 'static>(&mut self, resource: Resource<T>) -> Result<T, ResourceTableError> {
        let removed = self.table.delete(resource)?;
        self.keys.handles = self.keys.handles.saturating_sub(1);
        Ok(removed)
    }
}

impl store::Host for View<'_> {
    fn open(&mut self, identifier: String) -> Result<Resource<Bucket>, Failure> {
        let found = self.keys.doors.iter().find(|(alias, _)| *alias == identifier);
        let (_, handle) = found.ok_or(Failure::NoSuchStore)?;
        let opened = handle.kv().map_err(|error| match error {
            StateError::NotKeys { .. } => Failure::NoSuchStore,
            other => Failure::Other(other.to_string()),
        })?;
        self.push(Bucket(opened))
    }

    fn convert_error(&mut self, failure: Failure) -> wasmtime::Result<store::Error> {
        Ok(match failure {
            Failure::NoSuchStore => store::Error::NoSuchStore,
            Failure::AccessDenied => store::Error::AccessDenied,
            Failure::Other(why) => store::Error::Other(why),
        })
    }
}

impl store::HostBucket for View<'_> {
    fn get(&mut self, bucket: Resource<Bucket>, key: String) -> Result<Option<Vec<u8>>, Failure> {
        Ok(self.bucket(&bucket)?.get(&key)?)
    }

    fn set(&mut self, bucket: Resource<Bucket>, key: String, value: Vec<u8>) -> Result<(), Failure> {
        Ok(self.bucket(&bucket)?.set(&key, value)?)
    }

    fn delete(&mut self, bucket: Resource<Bucket>, key: String) -> Result<(), Failure> {
        Ok(self.bucket(&bucket)?.delete(&key)?)
    }

    fn exists(&mut self, bucket: Resource<Bucket>, key: String) -> Result<bool, Failure> {
        Ok(self.bucket(&bucket)?.exists(&key)?)
    }

    fn list_keys(&mut self, bucket: Resource<Bucket>, cursor: Option<String>) -> Result<store::KeyResponse, Failure> {
        // One more than a page tells whether there is another.
        let mut keys = self.bucket(&bucket)?.keys(cursor.as_deref(), PAGE + 1)?;
        let more = keys.len() > PAGE;
        keys.truncate(PAGE);
        let cursor = keys.last().filter(|_| more).cloned();
        Ok(store::KeyResponse { keys, cursor })
    }

    fn drop(&mut self, bucket: Resource<Bucket>) -> wasmtime::Result<()> {
        self.remove(bucket)?;
        Ok(())
    }
}

impl atomics::Host for View<'_> {
    fn increment(&mut self, bucket: Resource<Bucket>, key: String, delta: i64) -> Result<i64, Failure> {
        Ok(self.bucket(&bucket)?.increment(&key, delta)?)
    }

    fn swap(&mut self, cas: Resource<Cas>, value: Vec<u8>) -> Result<(), SwapFailure> {
        let Cas { store, seen } = self.remove(cas)?;
        if store.swap(&seen, value)? {
            return Ok(());
        }
        let seen = store.look(seen.key())?;
        Err(SwapFailure::Set(self.push(Cas { store, seen })?))
    }

    fn convert_cas_error(&mut self, failure: SwapFailure) -> wasmtime::Result<atomics::CasError> {
        Ok(match failure {
            SwapFailure::Store(failure) => atomics::CasError::StoreError(store::Host::convert_error(self, failure)?),
            SwapFailure::Set(cas) => atomics::CasError::CasFailed(cas),
        })
    }
}

impl atomics::HostCas for View<'_> {
    fn new(&mut self, bucket: Resource<Bucket>, key: String) -> Result<Resource<Cas>, Failure> {
        let store = Arc::clone(self.bucket(&bucket)?);
        let seen = store.look(&key)?;
        self.push(Cas { store, seen })
    }

    fn current(&mut self, cas: Resource<Cas>) -> Result<Option<Vec<u8>>, Failure> {
        let Cas { store, seen } = self.table.get(&cas)?;
        Ok(store.get(seen.key())?)
    }

    fn drop(&mut self, cas: Resource<Cas>) -> wasmtime::Result<()> {
        self.remove(cas)?;
        Ok(())
    }
}

fn check_batch(keys: usize) -> Result<(), Failure> {
    if keys > MOST_IN_BATCH {
        return Err(Failure::Other(format!("a batch can have {MOST_IN_BATCH} keys, this one has {keys}")));
    }
    Ok(())
}

impl batch::Host for View<'_> {
    fn get_many(
        &mut self,
        bucket: Resource<Bucket>,
        keys: Vec<String>,
    ) -> Result<Vec<Option<(String, Vec<u8>)>>, Failure> {
        check_batch(keys.len())?;
        let store = self.bucket(&bucket)?;
        let mut size = 0;
        let mut values = Vec::with_capacity(keys.len());
        for key in keys {
            let value = store.get(&key)?;
            size += key.len() + value.as_ref().map_or(0, Vec::len);
            if size > MOST_ANSWERED {
                return Err(Failure::Other(format!("the values are more than {MOST_ANSWERED} bytes together")));
            }
            values.push(value.map(|value| (key, value)));
        }
        Ok(values)
    }

    fn set_many(&mut self, bucket: Resource<Bucket>, key_values: Vec<(String, Vec<u8>)>) -> Result<(), Failure> {
        check_batch(key_values.len())?;
        let store = self.bucket(&bucket)?;
        Ok(key_values.into_iter().try_for_each(|(key, value)| store.set(&key, value))?)
    }

    fn delete_many(&mut self, bucket: Resource<Bucket>, keys: Vec<String>) -> Result<(), Failure> {
        check_batch(keys.len())?;
        let store = self.bucket(&bucket)?;
        Ok(keys.iter().try_for_each(|key| store.delete(key))?)
    }
}

#[cfg(test)]
mod tests;
