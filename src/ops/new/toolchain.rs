//! Owns the finding of toolchains that build for WASI: which is there, how a script calls it, what installs it where
//! none is.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Serialize;

use super::Language;
use crate::config::EnvVars;

/// What builds a workload.
#[derive(Debug, Clone, Serialize)]
pub struct Toolchain {
    /// What it is: `cargo with wasm32-wasip2`.
    pub name: String,
    /// Whether it is there.
    pub found: bool,
    /// Where it isn't: what was looked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub looked_for: Option<String>,
    /// Where it isn't: the command that installs it, for the workload's folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub install: Option<String>,
}

/// A toolchain, with what the templates say of it.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) toolchain: Toolchain,
    /// Rust's target.
    target: &'static str,
    /// How a script calls the compiler.
    compiler: String,
}

/// Versions that are known to work: those that this project's own guests are built with.
const REQUIREMENTS: &str = include_str!("../../../workloads/requirements.txt");

const COMPONENT: &str = "wasm32-wasip2";
const MODULE: &str = "wasm32-wasip1";

impl Found {
    fn there(name: impl Into<String>, target: &'static str, compiler: impl Into<String>) -> Self {
        let toolchain = Toolchain { name: name.into(), found: true, looked_for: None, install: None };
        Self { toolchain, target, compiler: compiler.into() }
    }

    fn missing(
        name: &str,
        looked_for: &str,
        install: String,
        target: &'static str,
        compiler: impl Into<String>,
    ) -> Self {
        let toolchain =
            Toolchain { name: name.into(), found: false, looked_for: Some(looked_for.into()), install: Some(install) };
        Self { toolchain, target, compiler: compiler.into() }
    }

    /// What stands in the templates for what.
    pub(super) fn words(&self, name: &str) -> Vec<(&'static str, String)> {
        let kind = if self.target == COMPONENT { "a component for WASI 0.2" } else { "a module for WASI preview 1" };
        vec![
            ("name", name.to_owned()),
            ("kind", kind.to_owned()),
            ("target", self.target.to_owned()),
            ("compiler", self.compiler.clone()),
            ("ziglang", pin("ziglang").to_owned()),
            ("componentize-py", pin("componentize-py").to_owned()),
        ]
    }
}

/// The pinned version of a package of PyPI.
fn pin(package: &str) -> &'static str {
    REQUIREMENTS.lines().find_map(|line| line.strip_prefix(package)?.strip_prefix("==")).unwrap_or_default()
}

/// Looks for what builds `language`.
pub(super) fn find(language: Language) -> Found {
    match language {
        Language::Rust => rust(),
        Language::C => c(),
        Language::Python => python(),
    }
}

/// A command that says nothing and is asked nothing.
fn quiet(program: impl AsRef<std::ffi::OsStr>, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

fn works(program: &str, arguments: &[&str]) -> bool {
    quiet(program, arguments).status().is_ok_and(|status| status.success())
}

fn rust() -> Found {
    let has = |target: &str| {
        let output = quiet("rustc", &["--print", "target-libdir", "--target", target]).stdout(Stdio::piped()).output();
        output.is_ok_and(|output| Path::new(String::from_utf8_lossy(&output.stdout).trim()).is_dir())
    };
    if !works("cargo", &["--version"]) {
        let install =
            format!("curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- --target {COMPONENT}");
        return Found::missing("cargo", "cargo on the PATH", install, COMPONENT, "cargo");
    }
    match [COMPONENT, MODULE].into_iter().find(|target| has(target)) {
        Some(target) => Found::there(format!("cargo with {target}"), target, "cargo"),
        None => {
            let name = format!("Rust's standard library for {COMPONENT}");
            let looked_for = format!("it and that for {MODULE} in rustc's folder of targets");
            Found::missing(&name, &looked_for, format!("rustup target add {COMPONENT}"), COMPONENT, "cargo")
        }
    }
}

/// Where distributions and people put the headers and libraries of wasi-libc.
const SYSROOTS: [&str; 3] = ["/usr", "/usr/share/wasi-sysroot", "/usr/local/share/wasi-sysroot"];

fn c() -> Found {
    let kit = EnvVars::get(EnvVars::WASI_SDK_PATH).map(PathBuf::from);
    if let Some(kit) = kit {
        let sysroot = format!("--sysroot={}", kit.join("share/wasi-sysroot").display());
        if compiles(&kit.join("bin/clang"), &[&sysroot]) {
            // The script goes where the variable says, also on another machine.
            let shown = r#""$WASI_SDK_PATH/bin/clang" --sysroot="$WASI_SDK_PATH/share/wasi-sysroot""#;
            return Found::there("wasi-sdk", MODULE, shown);
        }
    }
    if works("zig", &["version"]) {
        return Found::there("zig", MODULE, "zig cc -target wasm32-wasi");
    }
    if works("python3", &["-m", "ziglang", "version"]) {
        return Found::there("zig of PyPI", MODULE, "python3 -m ziglang cc -target wasm32-wasi");
    }
    for sysroot in SYSROOTS {
        let sysroot = format!("--sysroot={sysroot}");
        if compiles(Path::new("clang"), &["--target=wasm32-wasi", &sysroot]) {
            return Found::there("clang with wasi-libc", MODULE, format!("clang --target=wasm32-wasi {sysroot}"));
        }
    }
    let install = format!("python3 -m venv .venv && .venv/bin/pip install ziglang=={}", pin("ziglang"));
    let looked_for = "$WASI_SDK_PATH/bin/clang, zig, python3 -m ziglang, and clang with wasi-libc";
    // The script is for what that command installs.
    let compiler = ".venv/bin/python -m ziglang cc -target wasm32-wasi";
    Found::missing("a C compiler for wasm32-wasi", looked_for, install, MODULE, compiler)
}

/// Whether this compiler makes a program: clang alone is a compiler for WASI only with a linker, a library and a runtime,
/// each a package of its own.
fn compiles(compiler: &Path, arguments: &[&str]) -> bool {
    let Ok(folder) = tempfile::tempdir() else { return false };
    let source = folder.path().join("main.c");
    if std::fs::write(&source, "#include <stdio.h>\nint main(void) { return puts(\"\") < 0; }\n").is_err() {
        return false;
    }
    let mut command = quiet(compiler, arguments);
    command.arg("-o").arg(folder.path().join("main.wasm")).arg(source);
    command.status().is_ok_and(|status| status.success())
}

fn python() -> Found {
    if works("componentize-py", &["--version"]) {
        return Found::there("componentize-py", COMPONENT, "componentize-py");
    }
    let install = format!("python3 -m venv .venv && .venv/bin/pip install componentize-py=={}", pin("componentize-py"));
    let looked_for = "componentize-py on the PATH";
    Found::missing("componentize-py", looked_for, install, COMPONENT, ".venv/bin/componentize-py")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_recommended_is_pinned() {
        for package in ["ziglang", "componentize-py"] {
            assert!(pin(package).starts_with(|c: char| c.is_ascii_digit()), "{package}: {}", pin(package));
        }
    }
}
