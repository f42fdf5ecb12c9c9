//! Owns compiled code in memory.

use std::fmt;
use std::sync::Arc;

use wasmtime::Module;
use wasmtime::component::Component;

use super::inspect::Kind;

/// A compiled guest. Cheap to clone; the code is shared.
#[derive(Clone)]
pub struct Compiled {
    pub(super) code: Code,
    /// What spans call it: the digest, where it has one.
    pub(super) label: Arc<str>,
}

#[derive(Clone)]
pub(super) enum Code {
    Module(Module),
    Component(Component),
}

impl Compiled {
    /// Module or component.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self.code {
            Code::Module(_) => Kind::Module,
            Code::Component(_) => Kind::Component,
        }
    }
}

impl fmt::Debug for Compiled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Compiled").field("kind", &self.kind()).field("label", &self.label).finish_non_exhaustive()
    }
}
