//! Owns what can be said about Wasm bytes without compiling them.

use wasmparser::{ComponentExternalKind, Encoding, Parser, Payload};

use super::error::StartError;
use crate::artifact::looks_like;

/// The two things that a Wasm binary can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A core module.
    Module,
    /// A component.
    Component,
}

impl Kind {
    /// A stable word for machine output.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Module => "module",
            Self::Component => "component",
        }
    }

    /// What `bytes` begin like.
    ///
    /// # Errors
    /// [`StartError::NotWasm`], saying what they look like instead; [`StartError::Unsupported`] for a Wasm
    /// version that doesn't exist yet.
    pub fn of(bytes: &[u8]) -> Result<Self, StartError> {
        // Core specification 5.5.16 (magic and version) and the component model's Binary.md (layer).
        match bytes.get(..8) {
            Some(b"\0asm\x01\0\0\0") => Ok(Self::Module),
            Some(b"\0asm\x0d\0\x01\0") => Ok(Self::Component),
            Some([0, b'a', b's', b'm', a, b, c, d]) => {
                Err(StartError::Unsupported { why: format!("Wasm binary version {a:02x}{b:02x}{c:02x}{d:02x}") })
            }
            _ => Err(StartError::NotWasm { looks_like: looks_like(bytes).to_owned() }),
        }
    }
}

/// What a Wasm binary asks for and offers, at its outermost level.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WasmInfo {
    /// Module or component.
    pub kind: Kind,
    /// Imports: `module::name` for a module, the interface for a component.
    pub imports: Vec<String>,
    /// Exports.
    pub exports: Vec<String>,
    /// `wasip0`, `wasip1`, `wasip2`, `wasip3`, or `none`: from what is imported and exported, whatever the
    /// artifact's labels say.
    pub wasi: &'static str,
    /// Whether it has the entry point of a command.
    pub command: bool,
}

/// Reads imports and exports of `bytes`.
///
/// # Errors
/// [`StartError::NotWasm`], [`StartError::Unsupported`], [`StartError::Malformed`].
pub fn inspect(bytes: &[u8]) -> Result<WasmInfo, StartError> {
    let kind = Kind::of(bytes)?;
    let malformed = |e: wasmparser::BinaryReaderError| StartError::Malformed { why: e.to_string() };
    let (mut imports, mut exports) = (Vec::new(), Vec::new());
    let mut depth = 0_usize;
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.map_err(malformed)? {
            Payload::Version { encoding, .. } => {
                depth += 1;
                debug_assert!(depth > 1 || (encoding == Encoding::Component) == (kind == Kind::Component));
            }
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ImportSection(section) if depth == 1 => {
                for import in section.into_imports() {
                    let import = import.map_err(malformed)?;
                    imports.push(format!("{}::{}", import.module, import.name));
                }
            }
            Payload::ExportSection(section) if depth == 1 => {
                for export in section {
                    exports.push(export.map_err(malformed)?.name.to_owned());
                }
            }
            Payload::ComponentImportSection(section) if depth == 1 => {
                for import in section {
                    imports.push(import.map_err(malformed)?.name.name.to_owned());
                }
            }
            Payload::ComponentExportSection(section) if depth == 1 => {
                for export in section {
                    let export = export.map_err(malformed)?;
                    if export.kind != ComponentExternalKind::Type {
                        exports.push(export.name.name.to_owned());
                    }
                }
            }
            _ => {}
        }
    }
    let wasi = wasi(kind, imports.iter().chain(&exports));
    let command = match kind {
        Kind::Module => exports.iter().any(|name| name == "_start"),
        Kind::Component => exports.iter().any(|name| name.starts_with("wasi:cli/run@")),
    };
    Ok(WasmInfo { kind, imports, exports, wasi, command })
}

/// How many functions are in `bytes` with all that is nested in it, as far as it is Wasm.
#[must_use]
pub fn functions(bytes: &[u8]) -> u64 {
    let payloads = Parser::new(0).parse_all(bytes).map_while(Result::ok);
    payloads.filter(|payload| matches!(payload, Payload::CodeSectionEntry(_))).count() as u64
}

fn wasi<'a>(kind: Kind, names: impl Iterator<Item = &'a String>) -> &'static str {
    let mut found = "none";
    for name in names {
        found = match kind {
            Kind::Module if name.starts_with("wasi_snapshot_preview1::") => return "wasip1",
            Kind::Module if name.starts_with("wasi_unstable::") => return "wasip0",
            Kind::Component if name.starts_with("wasi:") && name.contains("@0.3") => return "wasip3",
            Kind::Component if name.starts_with("wasi:") && name.contains("@0.2") => "wasip2",
            _ => found,
        };
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_that_does_not_exist_yet_is_a_missing_feature() {
        assert!(matches!(Kind::of(b"\0asm\x02\0\0\0"), Err(StartError::Unsupported { .. })));
        assert!(
            matches!(inspect(b"\x7fELF\x02\x01\x01"), Err(StartError::NotWasm { looks_like }) if looks_like.contains("ELF"))
        );
    }

    #[test]
    fn a_module_tells_its_imports_and_world() {
        let bytes = wat::parse_str(
            r#"(module (import "wasi_snapshot_preview1" "proc_exit" (func (param i32)))
                 (memory (export "memory") 1) (func (export "_start")))"#,
        )
        .unwrap();
        let info = inspect(&bytes).unwrap();
        assert_eq!(info.kind, Kind::Module);
        assert_eq!(info.imports, ["wasi_snapshot_preview1::proc_exit"]);
        assert_eq!(info.exports, ["memory", "_start"]);
        assert_eq!((info.wasi, info.command), ("wasip1", true));
        assert!(matches!(inspect(&bytes[..bytes.len() - 3]), Err(StartError::Malformed { .. })));
    }

    #[test]
    fn a_component_tells_its_outer_names_only() {
        let bytes = wat::parse_str(
            r#"(component
                 (import "wasi:cli/environment@0.2.0" (instance))
                 (core module (import "inner" "hidden" (func)) (func (export "_start")))
                 (instance $i) (export "wasi:cli/run@0.2.0" (instance $i)))"#,
        )
        .unwrap();
        let info = inspect(&bytes).unwrap();
        assert_eq!(info.kind, Kind::Component);
        assert_eq!(info.imports, ["wasi:cli/environment@0.2.0"]);
        assert_eq!(info.exports, ["wasi:cli/run@0.2.0"]);
        assert_eq!((info.wasi, info.command), ("wasip2", true));
    }
}
