//! Owns the execution of Wasm: compile, the cache of compiled code, instantiate, run within limits.
//!
//! It knows bytes, files, digests and states that are bound, and nothing of stores or registries. Of signatures it knows the
//! proof alone: a [`crate::trust::Native`] for code that others compiled.
//!
//! ```text
//! bytes → CodeCache::get_or_compile → Compiled → Engine::prepare → Prepared → Engine::run → Execution
//! ```
//!
//! Modules get WASI preview 1, components `wasi:cli/command` of WASI 0.2 and `wasi:keyvalue`. WASI 0.3 isn't offered: this
//! Wasmtime calls its implementation "experimental, unstable and incomplete".

use std::sync::{Arc, OnceLock};

use wasmtime::component::Component;
use wasmtime::{Config, InstanceAllocationStrategy, Module, PoolingAllocationConfig, WasmBacktraceDetails};

mod backtrace;
mod cache;
mod code;
mod denied;
mod descriptors;
mod deterministic;
mod doors;
mod error;
mod inspect;
mod keyvalue;
mod limiter;
mod net;
mod prepare;
mod run;
mod seal;
mod spec;
mod stdio;
mod ticker;
mod toolchain;

#[cfg(test)]
mod tests;

pub use cache::{Cached, CodeCache, Entry, Precompiled, Pruned, Tier};
pub use code::Compiled;
pub use deterministic::Deterministic;
pub use error::StartError;
pub use inspect::{Kind, WasmInfo, functions, inspect};
pub use limiter::{Budget, Reserved};
pub use net::{NetRule, most_of_net};
pub use prepare::Prepared;
pub use run::{Clock, Execution, Outcome, Trapped};
pub use spec::{Captured, DirSpec, Input, Limits, Output, RunSpec, StateDoor};
pub use tokio_util::sync::CancellationToken;
pub use toolchain::foresee;
pub use wasmtime_wasi::async_trait;
pub use wasmtime_wasi::cli::{IsTerminal, StdinStream, StdoutStream};
pub use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

use code::Code;
use run::State;

/// The version of the runtime, which compiled code depends on. Cargo.toml pins it; a test compares.
pub const WASMTIME: &str = "48.0.8";

/// How an engine is set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineOptions {
    /// Whether instances come from a pool of slots that is reserved once. Right for a process that runs
    /// many guests (an instance takes some 5 µs instead of 50), wrong for one that runs a single guest.
    pub pooling: bool,
    /// With `pooling`: how many guests may run at once.
    pub max_instances: u32,
    /// Whether results that Wasm leaves to the processor are settled: of NaNs, and of the relaxed vector instructions.
    pub deterministic: bool,
    /// Packages of WASI that no guest is given, although they are there: `wasi:sockets`.
    pub without: Vec<String>,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self { pooling: false, max_instances: 1000, deterministic: false, without: Vec::new() }
    }
}

/// A Wasm runtime in one configuration. Cheap to clone; clones share everything.
#[derive(Debug, Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

struct Inner {
    engine: wasmtime::Engine,
    fingerprint: OnceLock<String>,
    // Each is made when the first guest of its kind comes: a module doesn't pay for the component's linker.
    p1: OnceLock<Result<wasmtime::Linker<State>, String>>,
    p2: OnceLock<Result<wasmtime::component::Linker<State>, String>>,
    ticker: ticker::Ticker,
    without: Vec<String>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inner").field("engine", &self.engine).finish_non_exhaustive()
    }
}

/// The configuration. The Wasm proposals are those that Wasmtime has on by default, which are those that it
/// calls stable (WebAssembly 3.0 with SIMD, exceptions and GC, and threads but no shared memory).
fn config(options: &EngineOptions) -> Config {
    let mut config = Config::new();
    config
        .epoch_interruption(true)
        .memory_init_cow(true)
        .cranelift_opt_level(wasmtime::OptLevel::Speed)
        // Wasmtime walks Wasm frames by their frame pointers; unwind tables would only serve debuggers, and
        // registering them is a large part of loading a large module.
        .native_unwind_info(false)
        // Set, so that the process's environment has no say. File and line are in a trap's backtrace where the
        // Wasm carries DWARF, and cost nothing where it doesn't.
        .wasm_backtrace_details(WasmBacktraceDetails::Enable);
    if options.deterministic {
        config.cranelift_nan_canonicalization(true).relaxed_simd_deterministic(true);
    }
    if options.pooling {
        let count = options.max_instances.max(1);
        let mut pool = PoolingAllocationConfig::default();
        let pagemap = PoolingAllocationConfig::is_pagemap_scan_available();
        // A component has several core instances, and may have several memories and tables.
        let parts = count.saturating_mul(4);
        pool.total_component_instances(count)
            .total_core_instances(parts)
            .total_memories(count.saturating_mul(2))
            .total_tables(parts)
            .total_stacks(count)
            .total_gc_heaps(count)
            .max_memories_per_module(16)
            .max_tables_per_module(16)
            .table_elements(1_000_000)
            .max_core_instance_size(4 << 20)
            .max_component_instance_size(8 << 20)
            // What a small guest dirtied is cleared by hand rather than given back to the system and faulted
            // in again, which interrupts every other core each time. Where the system can say which pages those are
            // (Linux 6.7), only they are touched.
            .linear_memory_keep_resident(if pagemap { 1 << 20 } else { 64 << 10 })
            .pagemap_scan(wasmtime::Enabled::Auto)
            .table_keep_resident(16 << 10)
            .max_unused_warm_slots(count.min(100));
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    }
    config
}

impl Engine {
    /// Sets up an engine.
    ///
    /// # Errors
    /// [`StartError::Engine`]: this machine's CPU or address space doesn't do.
    pub fn new(options: &EngineOptions) -> Result<Self, StartError> {
        let engine = wasmtime::Engine::new(&config(options)).map_err(StartError::engine)?;
        Ok(Self {
            inner: Arc::new(Inner {
                engine,
                fingerprint: OnceLock::new(),
                p1: OnceLock::new(),
                p2: OnceLock::new(),
                ticker: ticker::Ticker::default(),
                without: options.without.clone(),
            }),
        })
    }

    /// What compiled code depends on besides the Wasm, hashed: the runtime's version, its configuration, the
    /// target and the CPU features that are used. 64 hex digits.
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        self.inner.fingerprint.get_or_init(|| {
            use std::hash::Hash as _;
            let mut hasher = Sha256Hasher(aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256));
            ("vyr-code-1", WASMTIME).hash(&mut hasher);
            self.inner.engine.precompile_compatibility_hash().hash(&mut hasher);
            hex::encode(hasher.0.finish())
        })
    }

    /// What decides whether a Wasm can start here: the fingerprint, and what this engine goes without.
    #[must_use]
    pub fn abilities(&self) -> String {
        std::iter::once(self.fingerprint())
            .chain(self.inner.without.iter().map(String::as_str))
            .collect::<Vec<_>>()
            .join(" -")
    }

    /// Whether this engine goes without the interface or package of this name.
    fn goes_without(&self, interface: &str) -> bool {
        let package = interface.split(['/', '@']).next().unwrap_or(interface);
        self.inner.without.iter().any(|without| without == package)
    }

    /// The machine that this engine compiles for, for people; the fingerprint says it exactly.
    #[must_use]
    pub fn target() -> String {
        let libc = if cfg!(target_env = "musl") {
            "-musl"
        } else if cfg!(target_env = "gnu") {
            "-gnu"
        } else {
            ""
        };
        format!("{}-{}{libc}", std::env::consts::ARCH, std::env::consts::OS)
    }

    /// Compiles `bytes` to what [`CodeCache`] keeps. Takes long (a megabyte of Wasm some seconds of all CPUs),
    /// so call it where blocking is allowed.
    ///
    /// # Errors
    /// [`StartError::NotWasm`], [`StartError::Malformed`], [`StartError::Unsupported`], [`StartError::Compile`].
    pub fn compile(&self, bytes: &[u8]) -> Result<(Kind, Vec<u8>), StartError> {
        let kind = Kind::of(bytes)?;
        let code = match kind {
            Kind::Module => self.inner.engine.precompile_module(bytes),
            Kind::Component => self.inner.engine.precompile_component(bytes),
        };
        Ok((kind, code.map_err(|error| StartError::from_compile(&error))?))
    }

    /// Compiles `bytes` in memory, for a run without a cache. `label` is what spans call it.
    ///
    /// # Errors
    /// As [`Engine::compile`].
    #[tracing::instrument(name = "compile", skip_all, fields(digest = label, bytes = bytes.len()))]
    pub fn compile_in_memory(&self, label: &str, bytes: &[u8]) -> Result<Compiled, StartError> {
        let code = match Kind::of(bytes)? {
            Kind::Module => Module::from_binary(&self.inner.engine, bytes).map(Code::Module),
            Kind::Component => Component::from_binary(&self.inner.engine, bytes).map(Code::Component),
        };
        Ok(Compiled { code: code.map_err(|error| StartError::from_compile(&error))?, label: label.into() })
    }

    /// Makes every guest that computes hand its thread back now rather than at the next tick.
    pub fn kick(&self) {
        self.inner.engine.increment_epoch();
    }

    fn wasmtime(&self) -> &wasmtime::Engine {
        &self.inner.engine
    }

    fn tick(&self) -> Result<ticker::Ticking, StartError> {
        self.inner
            .ticker
            .tick(&self.inner.engine)
            .map_err(|error| StartError::Engine { why: format!("no thread for the guests' clock: {error}") })
    }

    fn p1(&self) -> Result<&wasmtime::Linker<State>, StartError> {
        let linker = self.inner.p1.get_or_init(|| {
            let mut linker = wasmtime::Linker::new(&self.inner.engine);
            wasmtime_wasi::p1::add_to_linker_async(&mut linker, |state: &mut State| {
                state.called = true;
                &mut state.wasi
            })
            .map_err(|error| format!("{error:#}"))?;
            // Wasmtime's own turns a code of 126 and above into a trap; a guest's code is the guest's.
            linker.allow_shadowing(true);
            linker
                .func_wrap("wasi_snapshot_preview1", "proc_exit", |code: i32| -> wasmtime::Result<()> {
                    Err(wasmtime_wasi::I32Exit(code).into())
                })
                .map_err(|error| format!("{error:#}"))?;
            doors::p1::add_to_linker(&mut linker).map_err(|error| format!("{error:#}"))?;
            deterministic::add_to_module_linker(&mut linker).map_err(|error| format!("{error:#}"))?;
            Ok(linker)
        });
        linker.as_ref().map_err(StartError::engine)
    }

    fn p2(&self) -> Result<&wasmtime::component::Linker<State>, StartError> {
        let linker = self.inner.p2.get_or_init(|| {
            let mut linker = wasmtime::component::Linker::new(&self.inner.engine);
            wasmtime_wasi::p2::add_to_linker_async(&mut linker).map_err(|error| format!("{error:#}"))?;
            linker.allow_shadowing(true);
            doors::p2::add_to_linker(&mut linker).map_err(|error| format!("{error:#}"))?;
            deterministic::add_to_component_linker(&mut linker).map_err(|error| format!("{error:#}"))?;
            denied::add_to_linker(&mut linker).map_err(|error| format!("{error:#}"))?;
            keyvalue::add_to_linker(&mut linker).map_err(|error| format!("{error:#}"))?;
            Ok(linker)
        });
        linker.as_ref().map_err(StartError::engine)
    }
}

/// `std::hash::Hash` into SHA-256.
struct Sha256Hasher(aws_lc_rs::digest::Context);

impl std::hash::Hasher for Sha256Hasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        // Not asked for: the whole digest is taken.
        0
    }
}
