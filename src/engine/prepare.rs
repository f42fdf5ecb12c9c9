//! Owns linking: what the guest imports is looked up once, before any number of instances.

use std::fmt;
use std::sync::Arc;

use wasmtime::component::Component;
use wasmtime::{ExternType, InstancePre, Module, ModuleExport, UnknownImportError};
use wasmtime_wasi::p2::bindings::CommandPre;

use super::code::{Code, Compiled};
use super::error::StartError;
use super::inspect::Kind;
use super::run::State;
use super::{Engine, keyvalue, toolchain};

/// A guest that is ready to be instantiated, any number of times and from any thread. Cheap to clone.
#[derive(Clone)]
pub struct Prepared {
    pub(super) program: Program,
    pub(super) label: Arc<str>,
}

#[derive(Clone)]
pub(super) enum Program {
    Module { pre: InstancePre<State>, start: ModuleExport },
    Component(CommandPre<State>),
}

impl fmt::Debug for Prepared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prepared").field("kind", &self.kind()).field("label", &self.label).finish_non_exhaustive()
    }
}

impl Prepared {
    /// The machine code that it keeps mapped, in bytes.
    #[must_use]
    pub fn mapped_bytes(&self) -> usize {
        let range = match &self.program {
            Program::Module { pre, .. } => pre.module().image_range(),
            Program::Component(pre) => pre.instance_pre().component().image_range(),
        };
        range.end as usize - range.start as usize
    }

    /// Module or component.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self.program {
            Program::Module { .. } => Kind::Module,
            Program::Component(_) => Kind::Component,
        }
    }
}

impl Engine {
    /// Links `compiled` with WASI: preview 1 for a module, 0.2 (`wasi:cli/command`) and `wasi:keyvalue` for a component.
    ///
    /// # Errors
    /// [`StartError::UnknownImport`] and [`StartError::IncompatibleImport`] with the import's name,
    /// [`StartError::NoEntry`].
    pub fn prepare(&self, compiled: &Compiled) -> Result<Prepared, StartError> {
        let program = match &compiled.code {
            Code::Module(module) => self.prepare_module(module)?,
            Code::Component(component) => self.prepare_component(component)?,
        };
        Ok(Prepared { program, label: Arc::clone(&compiled.label) })
    }

    fn prepare_module(&self, module: &Module) -> Result<Program, StartError> {
        if self.goes_without("wasi:sockets")
            && let Some(import) = module.imports().find(|import| import.name().starts_with("sock_"))
        {
            return Err(StartError::withheld(&format!("{}::{}", import.module(), import.name())));
        }
        let pre =
            self.p1()?.instantiate_pre(module).map_err(|error| match error.downcast_ref::<UnknownImportError>() {
                Some(import) => StartError::unknown_import(import.module(), Some(import.name())),
                None => incompatible(&error),
            })?;
        let entry = module.get_export("_start");
        let runnable =
            matches!(&entry, Some(ExternType::Func(ty)) if ty.params().len() == 0 && ty.results().len() == 0);
        match module.get_export_index("_start") {
            Some(start) if runnable => Ok(Program::Module { pre, start }),
            _ if entry.is_some() => Err(StartError::NoEntry {
                why: "its export `_start` is not a function without parameters and results".into(),
                hint: "build it as a program of WASI: what calls its main is the toolchain's own `_start`",
            }),
            _ => Err(toolchain::no_entry(Kind::Module, module.exports().map(|export| export.name()))),
        }
    }

    fn prepare_component(&self, component: &Component) -> Result<Program, StartError> {
        let imports = component.component_type();
        if let Some((import, _)) = imports.imports(self.wasmtime()).find(|(import, _)| self.goes_without(import)) {
            return Err(StartError::withheld(import));
        }
        let pre = self.p2()?.instantiate_pre(component).map_err(|error| {
            let outer = error.to_string();
            let import = outer.split('`').nth(1).unwrap_or("?").to_owned();
            // The cause tells what in the interface is missing, or what is different about it.
            if !outer.contains("matching implementation was not found") {
                StartError::from_link(&error)
            } else if !provides(&import) {
                StartError::unknown_import(&import, None)
            } else {
                let missing = error.root_cause().to_string().contains("is missing");
                let causes: Vec<_> = error.chain().skip(1).map(ToString::to_string).collect();
                match causes.iter().rev().find_map(|cause| cause.split('`').nth(1)).filter(|_| missing) {
                    Some(name) => StartError::unknown_import(&import, Some(name)),
                    None => StartError::IncompatibleImport { import, why: causes.join(": ") },
                }
            }
        })?;
        match CommandPre::new(pre) {
            Ok(pre) => Ok(Program::Component(pre)),
            Err(_) => {
                let exports = component.component_type();
                let exports: Vec<_> = exports.exports(self.wasmtime()).map(|(name, _)| name.to_owned()).collect();
                Err(toolchain::no_entry(Kind::Component, exports.iter().map(String::as_str)))
            }
        }
    }
}

/// Whether an interface of that name is in the world that components get, in a compatible version.
pub(super) fn provides(interface: &str) -> bool {
    let (name, version) = interface.split_once('@').unwrap_or((interface, ""));
    let package = name.split_once('/').map_or(name, |(package, _)| package);
    if package == "wasi:keyvalue" {
        return version == keyvalue::VERSION;
    }
    // A draft of a version is another one.
    version.strip_prefix("0.2.").is_some_and(|patch| !patch.contains('-'))
        && matches!(
            package,
            "wasi:cli" | "wasi:clocks" | "wasi:filesystem" | "wasi:io" | "wasi:random" | "wasi:sockets"
        )
}

fn incompatible(error: &wasmtime::Error) -> StartError {
    let outer = error.to_string();
    match outer.split('`').nth(1) {
        Some(import) if outer.contains("import") => {
            let causes: Vec<_> = error.chain().skip(1).map(ToString::to_string).collect();
            StartError::IncompatibleImport { import: import.to_owned(), why: causes.join(": ") }
        }
        _ => StartError::from_link(error),
    }
}
