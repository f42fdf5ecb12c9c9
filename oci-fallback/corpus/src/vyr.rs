//! Owns everything that is said to VYR: how a node is started, how an artifact gets into its registry, how a task is
//! submitted and read. Nothing else here knows its options or the names of its fields.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::case::Case;
use crate::judge::{Came, shortened};
use crate::kit::{Kit, timed};
use crate::oci::{self, INDEX, Layout, MANIFEST};
use crate::registry::{free_port, wait_for};
use crate::wasm;

/// What runs the containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Engine {
    Libcontainer,
    Crun,
}

/// As whom the node runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Rights {
    Root,
    Rootless,
}

/// The user of a node without rights.
const NOBODY: u32 = 65534;
/// Preparing the largest image takes no longer.
const PREPARE: u32 = 300;

/// A task that has ended, as far as it matters here.
#[derive(Debug)]
pub(crate) struct Task {
    pub(crate) came: Came,
    /// `container` or `wasm`.
    pub(crate) path: Option<String>,
    pub(crate) reason: Option<String>,
    /// How it ended, in words, where that isn't by itself.
    pub(crate) words: String,
    pub(crate) prepare_us: Option<u64>,
    pub(crate) start_us: Option<u64>,
    pub(crate) run_us: Option<u64>,
}

/// A node with a data folder of its own, ended when dropped.
#[derive(Debug)]
pub(crate) struct Node<'a> {
    kit: &'a Kit,
    vyr: PathBuf,
    rights: Rights,
    process: Child,
    port: u16,
    home: TempDir,
}

impl<'a> Node<'a> {
    pub(crate) fn start(kit: &'a Kit, vyr: &Path, engine: Engine, rights: Rights) -> Result<Self> {
        // Not in the cache, which may lie where nobody else may look.
        let home = tempfile::Builder::new().prefix("vyr-corpus").tempdir()?;
        if rights == Rights::Rootless {
            std::os::unix::fs::chown(home.path(), Some(NOBODY), Some(NOBODY))?;
        }
        let port = free_port()?;
        let mut words: Vec<OsString> =
            ["serve", "--no-socket", "--listen", &format!("127.0.0.1:{port}")].map(OsString::from).into();
        words.push("--container-engine".into());
        words.push(match engine {
            Engine::Libcontainer => "libcontainer".into(),
            Engine::Crun => kit.path("crun")?.into(),
        });
        let mut command = command(vyr, home.path(), rights, &words);
        let log = File::create(home.path().join("log"))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let process = command.spawn().context("vyr serve")?;
        let mut node = Self { kit, vyr: vyr.to_owned(), rights, process, port, home };
        if let Err(error) = wait_for(port, &mut node.process, 30) {
            bail!("vyr serve: {error}: {}", shortened(&std::fs::read(node.home.path().join("log"))?, 1000));
        }
        Ok(node)
    }

    fn say<A: AsRef<OsStr>>(&self, words: &[A], seconds: u32) -> Result<Output> {
        timed(command(&self.vyr, self.home.path(), self.rights, words), seconds, b"")
    }

    fn repository(&self, name: &str) -> String {
        format!("localhost:{}/corpus/{name}", self.port)
    }

    /// Brings an image, with the Wasm `partner` beside it, into the node's registry; the reference, which is signed.
    pub(crate) fn publish(&self, name: &str, layout: &Path, partner: &wasm::Partner) -> Result<String> {
        let reference = format!("{}:v1", self.repository(name));
        let scratch = tempfile::tempdir_in(self.home.path())?;
        std::fs::set_permissions(scratch.path(), std::fs::Permissions::from_mode(0o755))?;
        let file = scratch.path().join("app.wasm");
        if let Some(bytes) = partner.bytes()? {
            std::fs::write(&file, bytes)?;
        }
        if partner.reason == "no_wasm" || partner.is_pushed_by_others() {
            let from = scratch.path().join("layout");
            lend(layout, &from)?;
            let mut words: Vec<String> = vec!["push".into(), from.display().to_string(), reference.clone()];
            if partner.is_pushed_by_others() {
                set_beside(&from, &std::fs::read(&file)?)?;
                words.push("--index".into());
            }
            self.kit.run("crane", &words)?;
            let digest = self.kit.run("crane", &["digest", &reference])?;
            let reference = format!("{}@{}", self.repository(name), digest.trim());
            succeeded(&self.say(&["sign", &reference], 60)?, "vyr sign")?;
            return Ok(reference);
        }
        let from = match self.rights {
            Rights::Root => layout.to_owned(),
            Rights::Rootless => {
                let from = scratch.path().join("layout");
                lend(layout, &from)?;
                from
            }
        };
        let image = format!("oci:{}:{}", from.display(), oci::TAG);
        let output = self.say(&["push", &reference, &file.display().to_string(), "--fallback", &image], PREPARE)?;
        succeeded(&output, "vyr push")?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// Runs a case's artifact to its end.
    pub(crate) fn run(&self, case: &Case, reference: &str) -> Result<Task> {
        let mut words: Vec<String> =
            ["submit", "--wait", "--output", "json", "--path", "auto"].map(str::to_owned).into();
        words.extend(["--timeout".into(), format!("{}s", case.timeout), "--log-limit".into(), "16MiB".into()]);
        if let Some(memory) = &case.memory {
            words.extend(["--memory".into(), memory.clone()]);
        }
        if case.writable_root {
            words.push("--writable-root".into());
        }
        let stdin = self.home.path().join("stdin");
        if !case.stdin.is_empty() {
            std::fs::write(&stdin, &case.stdin)?;
            words.extend(["--stdin".into(), stdin.display().to_string()]);
        }
        self.submit(words, reference, &case.args, case.timeout)
    }

    fn submit(&self, mut words: Vec<String>, reference: &str, args: &[String], seconds: u32) -> Result<Task> {
        words.extend(["--node".into(), self.url(), reference.to_owned()]);
        if !args.is_empty() {
            words.push("--".into());
            words.extend(args.iter().cloned());
        }
        let output = self.say(&words, seconds + PREPARE)?;
        let Ok(view) = serde_json::from_slice::<Value>(&output.stdout) else {
            bail!("vyr submit: {}", shortened(&output.stderr, 500));
        };
        let text = |name: &str| view[name].as_str().map(str::to_owned);
        let id = text("id").with_context(|| format!("a task has an id: {}", shortened(&output.stdout, 500)))?;
        let exit = view["exit_code"].as_i64().and_then(|code| i32::try_from(code).ok());
        let logs = |stream: &str| -> Result<Vec<u8>> {
            let output = self.say(&["logs", stream, "--node", &self.url(), &id], 60)?;
            succeeded(&output, "vyr logs")?;
            Ok(output.stdout)
        };
        let came = Came { exit, stdout: logs("--stdout")?, stderr: logs("--stderr")? };
        let words: Vec<String> = ["end_reason", "message"].into_iter().filter_map(text).collect();
        let number = |name: &str| view[name].as_u64();
        Ok(Task {
            came,
            path: text("path"),
            reason: text("fallback_reason").filter(|reason| !reason.is_empty()),
            words: words.join(": "),
            prepare_us: number("prepare_us"),
            start_us: number("submit_to_start_us"),
            run_us: number("run_us"),
        })
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// `vyr run` of a layout, in the same data folder: for images that may not even start.
    pub(crate) fn run_layout(&self, layout: &Path, options: &[String], seconds: u32) -> Result<Output> {
        let from = self.home.path().join("bad-layout");
        drop(std::fs::remove_dir_all(&from));
        lend(layout, &from)?;
        let image = format!("oci:{}:{}", from.display(), oci::TAG);
        let mut words = vec!["run".to_owned(), "--allow-unsigned".into()];
        words.extend_from_slice(options);
        words.push(image);
        let output = self.say(&words, seconds);
        drop(std::fs::remove_dir_all(&from));
        output
    }

    /// Whether the node still answers.
    pub(crate) fn lives(&self) -> bool {
        self.say(&["tasks", "--output", "json", "--node", &self.url()], 10).is_ok_and(|output| output.status.success())
    }

    /// How many bytes the node's data folder holds, as a measure of what runs leave.
    pub(crate) fn bytes(&self) -> Result<u64> {
        let mut du = Command::new("du");
        du.args(["-sB1"]).arg(self.home.path());
        let text = String::from_utf8(crate::kit::run(du)?.stdout)?;
        text.split_whitespace().next().unwrap_or_default().parse().context("du")
    }
}

impl Drop for Node<'_> {
    fn drop(&mut self) {
        let id = rustix::process::Pid::from_child(&self.process);
        // In peace first: what it has mounted it unmounts.
        let _ = rustix::process::kill_process(id, rustix::process::Signal::TERM);
        for _ in 0..100 {
            if !matches!(self.process.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// `vyr` with a data folder, as whom it shall be.
fn command<A: AsRef<OsStr>>(vyr: &Path, home: &Path, rights: Rights, words: &[A]) -> Command {
    let mut command = match rights {
        Rights::Root => Command::new(vyr),
        Rights::Rootless => {
            let mut command = Command::new("setpriv");
            command.args([format!("--reuid={NOBODY}"), format!("--regid={NOBODY}"), "--clear-groups".into()]).arg(vyr);
            command
        }
    };
    command.args(words).current_dir(home).env_clear().env("HOME", home).env("VYR_HOME", home.join("vyr"));
    command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    command
}

fn succeeded(output: &Output, name: &str) -> Result<()> {
    ensure!(output.status.success(), "{name}: {}", shortened(&output.stderr, 500));
    Ok(())
}

/// A copy of a layout that everybody may read.
fn lend(layout: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to.join("blobs/sha256"))?;
    let open = |path: &Path| std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644));
    for name in ["index.json", "oci-layout"] {
        std::fs::copy(layout.join(name), to.join(name))?;
        open(&to.join(name))?;
    }
    for entry in std::fs::read_dir(layout.join("blobs/sha256"))? {
        let entry = entry?;
        let blob = to.join("blobs/sha256").join(entry.file_name());
        // Blobs are only read, so one file may stand in both.
        std::fs::hard_link(entry.path(), &blob).or_else(|_| std::fs::copy(entry.path(), &blob).map(drop))?;
        open(&blob)?;
    }
    Ok(())
}

/// Turns a layout into one whose index is a dual artifact: the bytes as a Wasm layer, beside the image that was there. What
/// `oras` and `crane index append` write.
fn set_beside(root: &Path, bytes: &[u8]) -> Result<()> {
    let image = oci::named(root)?;
    let layout = Layout::create(root)?;
    let layer = layout.blob("application/wasm", |out| Ok(std::io::Write::write_all(out, bytes)?))?;
    let digest = layer["digest"].clone();
    let config = json!({
        "architecture": "wasm", "os": "wasip1", "created": "2026-01-01T00:00:00Z", "layerDigests": [digest],
    });
    let config = layout.json("application/vnd.wasm.config.v0+json", &config)?;
    let manifest = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer] });
    let mut wasm = layout.json(MANIFEST, &manifest)?;
    wasm["platform"] = json!({ "architecture": "wasm", "os": "wasip1" });
    let mut entries = vec![wasm];
    let top = oci::read(root, &image)?;
    if let Some(inner) = top["manifests"].as_array() {
        entries.extend(inner.iter().cloned());
    } else {
        let config = oci::read(root, &top["config"])?;
        entries.push(json!({
            "mediaType": image["mediaType"], "digest": image["digest"], "size": image["size"],
            "platform": { "architecture": config["architecture"], "os": config["os"] },
        }));
    }
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": entries });
    Ok(std::fs::write(root.join("index.json"), serde_json::to_vec(&index)?)?)
}
