//! Owns the checks of `vyr doctor`: what works on this machine and what is missing, in words to act on.

use std::path::Path;

use bytesize::ByteSize;
use serde::Serialize;

use super::Vyr;
use super::repair::{Outcome, Report};
use super::verify::Policy;
use crate::config::EnvVars;
use crate::confine::Abilities;
use crate::engine::{CancellationToken, Engine, EngineOptions, RunSpec};
use crate::error::{Result, plain};

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It works.
    Ok,
    /// It works without, or less well.
    Note,
    /// It doesn't work.
    Fail,
}

/// One check.
#[derive(Debug, Clone, Serialize)]
pub struct Check {
    /// What was looked at.
    pub name: &'static str,
    /// How it ended.
    pub state: State,
    /// What was found.
    pub found: String,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

fn check(name: &'static str, state: State, found: impl Into<String>, next: Option<&str>) -> Check {
    Check { name, state, found: plain(&found.into()), next: next.map(str::to_owned) }
}

/// A module whose `_start` does nothing.
const EMPTY_COMMAND: &[u8] = b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0\x03\x02\x01\0\x05\x03\x01\0\x01\x07\x13\x02\x06_start\0\0\x06memory\x02\0\x0a\x04\x01\x02\0\x0b";

/// How many things that are broken are named.
const NAMED: usize = 5;

/// What was found of databases, blobs and compiled code.
fn held(found: Result<Report>) -> Vec<Check> {
    const NEXT: &str = "`vyr doctor --repair` repairs what can be, with --dry-run says what it would do";
    let report = match found {
        Ok(report) => report,
        Err(e) => return vec![check("data folder", State::Fail, e.why(), e.next())],
    };
    let mut wrong: Vec<String> = report
        .databases
        .iter()
        .filter_map(|database| Some(format!("{}: {}", database.name, database.complaints.first()?)))
        .collect();
    let databases = match wrong.is_empty() {
        true if report.databases.is_empty() => check("databases", State::Ok, "none yet", None),
        true => check("databases", State::Ok, format!("{} are sound", report.databases.len()), None),
        false => check("databases", State::Fail, wrong.join("; "), Some(NEXT)),
    };
    let content = &report.content;
    let broken = content.wrong.iter().filter(|blob| blob.fate.outcome != Outcome::Unused);
    wrong = broken.map(|blob| format!("{}: {}", blob.digest, blob.found)).collect();
    let all = format!("{} blobs, {}", content.checked, ByteSize::b(content.bytes).display().iec());
    let more = wrong.len().saturating_sub(NAMED);
    let content = match wrong.is_empty() {
        true => check("content", State::Ok, all, None),
        false => {
            let named = wrong.iter().take(NAMED).cloned().collect::<Vec<_>>().join("; ");
            let more = if more > 0 { format!("; and {more} more") } else { String::new() };
            check("content", State::Fail, format!("{} of {all}: {named}{more}", wrong.len()), Some(NEXT))
        }
    };
    let compiled = match report.compiled.damaged {
        _ if report.quick => check("compiled code", State::Note, "not read (--quick)", None),
        0 => check("compiled code", State::Ok, format!("{} entries", report.compiled.checked), None),
        damaged => check("compiled code", State::Fail, format!("{damaged} entries are damaged"), Some(NEXT)),
    };
    vec![databases, content, compiled]
}

/// Runs all checks; `found` is what the data folder holds. None changes anything but the data folder's own making.
pub async fn examine(vyr: &Vyr, found: Result<Report>) -> Vec<Check> {
    let mut checks = vec![check(
        "vyr",
        State::Ok,
        format!("{} on {}/{}", env!("CARGO_PKG_VERSION"), std::env::consts::OS, std::env::consts::ARCH),
        None,
    )];
    let home = vyr.config().home.root();
    // To open a damaged one would change it.
    let is_damaged =
        found.as_ref().is_ok_and(|found| found.databases.iter().any(|d| d.name == "vyr.sqlite" && !d.is_sound()));
    let store = if is_damaged { None } else { Some(vyr.store().await) };
    checks.extend(store.map(|store| match store {
        Ok(store) if store.is_read_only() => check(
            "store",
            State::Note,
            format!("{} can only be read", home.display()),
            Some("set VYR_HOME to a folder that you may write, to pull or push"),
        ),
        Ok(_) => check("store", State::Ok, format!("{}, {}", home.display(), free(home)), None),
        Err(e) => check("store", State::Fail, e.why(), e.next().or(Some("set VYR_HOME to another folder"))),
    }));
    checks.extend(held(found));
    checks.push(match vyr.secret() {
        Ok(_) => check("node secret", State::Ok, "there, and only this user can read it", None),
        Err(e) => check("node secret", State::Fail, e.why(), e.next()),
    });
    checks.push(match Policy::load(vyr) {
        Ok(policy) => {
            let rules = policy.rules().rules().len();
            let machine = if vyr.config().home.machine_public_key().exists() {
                "this machine's key"
            } else {
                "no key of this machine yet (made by the first `vyr push`)"
            };
            check(
                "trust policy",
                State::Ok,
                format!("{rules} rule{}, {machine}; everything else is refused", if rules == 1 { "" } else { "s" }),
                None,
            )
        }
        Err(e) => check("trust policy", State::Fail, e.why(), e.next()),
    });
    checks.push(wasm().await);
    let docker = vyr.config().docker_config.as_ref().map(|d| d.join("config.json"));
    checks.push(match docker.filter(|p| p.exists()) {
        Some(path) => match std::fs::read(&path)
            .map_err(|e| e.to_string())
            .and_then(|b| serde_json::from_slice::<serde_json::Value>(&b).map_err(|e| e.to_string()))
        {
            Ok(_) => check("registry logins", State::Ok, path.display().to_string(), None),
            Err(e) => check(
                "registry logins",
                State::Fail,
                format!("{}: {e}", path.display()),
                Some("repair it, or log in again with `oras login`"),
            ),
        },
        None => check(
            "registry logins",
            State::Note,
            "no config.json: registries are used anonymously",
            Some("`oras login HOST` or `docker login HOST`, where a registry wants one"),
        ),
    });
    checks.push(if vyr.config().offline {
        check("network", State::Note, "forbidden by a setting", Some("unset VYR_OFFLINE to pull"))
    } else {
        match EnvVars::first(&[EnvVars::HTTPS_PROXY, "https_proxy"]) {
            Some(proxy) => check("network", State::Ok, format!("through the proxy {proxy}"), None),
            None => check("network", State::Ok, "direct, no proxy set", None),
        }
    });
    checks.push(
        match EnvVars::first(&[EnvVars::OTEL_EXPORTER_OTLP_TRACES_ENDPOINT, EnvVars::OTEL_EXPORTER_OTLP_ENDPOINT]) {
            Some(endpoint) => check("telemetry", State::Ok, format!("to {endpoint}"), None),
            None => check("telemetry", State::Note, "off", Some("set OTEL_EXPORTER_OTLP_ENDPOINT to send traces")),
        },
    );
    let lacking = Abilities::look().lacking();
    checks.push(match lacking.is_empty() {
        true => check(
            "confinement",
            State::Ok,
            "`vyr serve` confines itself by Landlock and seccomp",
            None,
        ),
        false => check(
            "confinement",
            State::Note,
            format!("`vyr serve` can't confine itself in full here: {}", lacking.join("; ")),
            Some("run it on Linux 6.2 or later with Landlock among its security modules; --confine required starts it only so"),
        ),
    });
    // What keeps containers from running keeps no Wasm from it.
    let machine = vyr_oci_fallback::probe::look(vyr.config().container_engine.as_deref());
    checks.extend(machine.findings.iter().map(|finding| {
        let state = if finding.works == Some(true) { State::Ok } else { State::Note };
        check(finding.name, state, finding.found.clone(), finding.next.as_deref())
    }));
    checks
}

async fn wasm() -> Check {
    let tried = async {
        let engine = Engine::new(&EngineOptions::default())?;
        let compiled = engine.compile_in_memory("doctor", EMPTY_COMMAND)?;
        let prepared = engine.prepare(&compiled)?;
        engine.run(&prepared, RunSpec::default(), &CancellationToken::new()).await
    };
    match tried.await {
        Ok(execution) => check(
            "Wasm",
            State::Ok,
            format!("Wasmtime compiles and runs (a first program {})", execution.outcome),
            None,
        ),
        Err(e) => check(
            "Wasm",
            State::Fail,
            e.to_string(),
            Some("this needs a 64-bit CPU and memory that may be made executable"),
        ),
    }
}

fn free(path: &Path) -> String {
    match rustix::fs::statvfs(path) {
        Ok(fs) => format!("{} free", ByteSize::b(fs.f_bavail.saturating_mul(fs.f_frsize)).display().iec()),
        Err(e) => format!("free space unknown: {e}"),
    }
}
