//! Owns what imports and exports tell of the toolchain that made a Wasm, and which of its switches makes one that runs here.

use super::error::{StartError, visible};
use super::inspect::{Kind, WasmInfo};
use super::prepare;

/// What would provide the import `name` of the module or interface `module`, or how to do without.
pub(super) fn remedy(module: &str, name: Option<&str>) -> &'static str {
    let name = name.unwrap_or_default();
    match module {
        "wasi_unstable" => {
            "that's WASI from before preview 1: rebuild it with a current toolchain, for wasm32-wasip1 or wasm32-wasip2"
        }
        "wasi_snapshot_preview1" if name.starts_with("sock_") => {
            "preview 1 opens no sockets, which is WasmEdge's own extension: rebuild it for wasm32-wasip2, which has wasi:sockets"
        }
        "wasi_snapshot_preview1" => "WASI preview 1 has no function of that name: rebuild it with a current toolchain",
        "wasi" if name == "thread-spawn" => {
            "guests have no threads here: rebuild it without them, for wasm32-wasip1 and not wasm32-wasip1-threads"
        }
        "wasi_ephemeral_nn" => "there is no wasi-nn here: rebuild it without, or run it as a container beside the Wasm",
        "env" if name == "abort" || name == "seed" => {
            "it was built by AssemblyScript for a browser: rebuild it with @assemblyscript/wasi-shim (asc --config \
             node_modules/@assemblyscript/wasi-shim/asconfig.json)"
        }
        "env" if name == "memory" || name == "__indirect_function_table" => {
            "it wants its memory or table from outside: rebuild it without --import-memory and --import-table"
        }
        "env" if is_emscripten(name) => {
            "it was built by Emscripten for a browser: rebuild it with emcc -sSTANDALONE_WASM, or with wasi-sdk or zig cc"
        }
        // Emscripten's own names, made short by -O2 and above.
        "a" => {
            "it was built by Emscripten for a browser: rebuild it with emcc -sSTANDALONE_WASM, or with wasi-sdk or zig cc"
        }
        "env" => {
            "that's a symbol that nothing defined when it was linked, for somebody's own host to provide: link what defines it, \
             or rebuild it for wasm32-wasip1 or wasm32-wasip2"
        }
        "gojs" | "go" => {
            "it was built with GOOS=js, for a browser: rebuild it with GOOS=wasip1 GOARCH=wasm (TinyGo: -target=wasip1)"
        }
        _ if is_bindgen(module, name) => {
            "it was built with wasm-bindgen, for a browser: rebuild it for wasm32-wasip2 (cargo build --target wasm32-wasip2), \
             without wasm-bindgen and the crates that need it"
        }
        _ if module.starts_with("wasix_") => {
            "that's WASIX, which Wasmer alone has: rebuild it for wasm32-wasip1 or wasm32-wasip2, or put a container beside it \
             (`vyr push --fallback IMAGE`)"
        }
        // Its versions are drafts of its own, whatever WASI's.
        _ if module.starts_with("wasi:keyvalue") => {
            "wasi:keyvalue is provided as store, atomics and batch of 0.2.0-draft2: rebuild it for those"
        }
        _ if module.starts_with("wasi:") && module.contains("@0.3") => {
            "that's WASI 0.3, which isn't stable in this runtime: rebuild it for WASI 0.2 (wasm32-wasip2)"
        }
        _ if module.starts_with("wasi:") && module.contains("@0.1") => "rebuild it for WASI 0.2 (wasm32-wasip2)",
        _ if module.starts_with("wasi:") && module.contains("@0.2.0-rc") => {
            "that's a draft of WASI 0.2: rebuild it with a current toolchain"
        }
        _ if module.starts_with("wasi:http") => {
            "commands get no wasi:http here: use wasi:sockets, or run it where HTTP is served"
        }
        _ if module.starts_with("fermyon:") || module.starts_with("spin") => {
            "that's Spin's own interface: run it with Spin, or rebuild it for wasi:cli/command"
        }
        _ if module.starts_with("wasmcloud:") || module.starts_with("wrpc:") => {
            "that's wasmCloud's own interface: run it there, or rebuild it for wasi:cli/command"
        }
        _ if module.starts_with("wasi:") => {
            "that interface is outside of wasi:cli/command, which is what is provided here"
        }
        _ => "compose it with the component that provides it, or rebuild it without it",
    }
}

fn is_emscripten(name: &str) -> bool {
    ["emscripten_", "_emscripten", "_embind", "_emval", "invoke_", "__syscall", "__cxa_", "_abort_js", "__assert_fail"]
        .iter()
        .any(|beginning| name.starts_with(beginning))
}

fn is_bindgen(module: &str, name: &str) -> bool {
    module.starts_with("wbg")
        || module.starts_with("__wbindgen")
        || name.starts_with("__wbindgen")
        || name.starts_with("__wbg_")
}

/// Why what has these exports can't be run as a command.
pub(super) fn no_entry<'a>(kind: Kind, exports: impl Iterator<Item = &'a str>) -> StartError {
    let exports: Vec<&str> = exports.collect();
    let has = |name: &str| exports.contains(&name);
    let beginning = |name: &str| exports.iter().find(|export| export.starts_with(name)).copied();
    let (why, hint) = match kind {
        Kind::Module if has("_initialize") => (
            "it exports no `_start`, but `_initialize`: it was built as a library (a reactor)".to_owned(),
            "build it as a program: no crate-type cdylib, no -mexec-model=reactor, no -buildmode=c-shared",
        ),
        Kind::Module if has("main") || has("_main") || has("__main_argc_argv") => (
            "it exports a `main`, but no `_start` that calls it".to_owned(),
            "link it as a program of WASI: wasm32-wasip1 or wasm32-wasip2, without -nostartfiles and --no-entry",
        ),
        Kind::Module => (
            "it exports no `_start`".to_owned(),
            "build it as a program, with a main, for wasm32-wasip1 or wasm32-wasip2: wasm32-unknown-unknown and \
             crate-type cdylib make libraries",
        ),
        Kind::Component => {
            if let Some(run) = beginning("wasi:cli/run@0.3") {
                (
                    format!("it exports `{run}`, and what is called here is `wasi:cli/run` of WASI 0.2"),
                    "rebuild it for WASI 0.2 (wasm32-wasip2)",
                )
            } else if let Some(handler) = beginning("wasi:http/incoming-handler") {
                (
                    format!("it serves HTTP (`{handler}`), and doesn't export `wasi:cli/run`"),
                    "run it where HTTP is served, or build it as a command, for the world wasi:cli/command",
                )
            } else {
                let has = match exports.as_slice() {
                    [] => "it exports nothing".to_owned(),
                    some => {
                        let some: Vec<_> = some.iter().take(4).map(|name| format!("`{}`", visible(name))).collect();
                        format!("it exports {}", some.join(", "))
                    }
                };
                (
                    format!("it doesn't export `wasi:cli/run` of WASI 0.2; {has}"),
                    "build it as a program, for the world wasi:cli/command: in Rust a main and --target wasm32-wasip2",
                )
            }
        }
    };
    StartError::NoEntry { why, hint }
}

/// What will keep it from starting, as far as its imports and exports alone tell; `None` says nothing.
#[must_use]
pub fn foresee(info: &WasmInfo) -> Option<StartError> {
    for import in &info.imports {
        let (module, name) = match info.kind {
            Kind::Module => {
                import.split_once("::").map_or((import.as_str(), None), |(module, name)| (module, Some(name)))
            }
            Kind::Component => (import.as_str(), None),
        };
        let provided = match info.kind {
            Kind::Module => module == "wasi_snapshot_preview1",
            // What is no interface (a function, a type) has no version and no package.
            Kind::Component => !module.contains(':') || prepare::provides(module),
        };
        if !provided {
            return Some(StartError::unknown_import(module, name));
        }
    }
    // That of another WASI is none here.
    let command = match info.kind {
        Kind::Module => info.command,
        Kind::Component => info.exports.iter().any(|name| name.starts_with("wasi:cli/run@0.2.")),
    };
    (!command).then(|| no_entry(info.kind, info.exports.iter().map(String::as_str)))
}

#[cfg(test)]
mod tests {
    use super::super::inspect;
    use super::*;

    fn foreseen(wat: &str) -> Option<StartError> {
        foresee(&inspect(&wat::parse_str(wat).unwrap()).unwrap())
    }

    #[test]
    fn what_can_not_start_is_foreseen_and_nothing_else() {
        for fine in [
            r#"(module (import "wasi_snapshot_preview1" "proc_exit" (func (param i32))) (func (export "_start")))"#,
            r#"(component (import "wasi:io/streams@0.2.99" (instance)) (instance $i) (export "wasi:cli/run@0.2.0" (instance $i)))"#,
            r#"(component (import "wasi:keyvalue/store@0.2.0-draft2" (instance)) (instance $i) (export "wasi:cli/run@0.2.0" (instance $i)))"#,
        ] {
            assert!(foreseen(fine).is_none(), "{fine}: {:?}", foreseen(fine));
        }
        for (bad, code, next) in [
            (r#"(module (import "gojs" "x" (func)) (func (export "_start")))"#, "unknown_import", "GOOS=wasip1"),
            (r#"(module (import "wasi_unstable" "x" (func)) (func (export "_start")))"#, "wasi_version", "wasip1"),
            (r#"(module (func (export "_initialize")))"#, "no_entry", "cdylib"),
            (r#"(component (import "wasi:keyvalue/store@0.1.0" (instance)))"#, "unknown_import", "draft2"),
            (r#"(component (instance $i) (export "wasi:cli/run@0.3.0" (instance $i)))"#, "no_entry", "wasm32-wasip2"),
            ("(component)", "no_entry", "wasi:cli/command"),
        ] {
            let error = foreseen(bad).unwrap_or_else(|| panic!("{bad}"));
            assert_eq!(error.code(), code, "{bad}: {error}");
            assert!(error.hint().contains(next), "{bad}: {}", error.hint());
        }
    }
}
