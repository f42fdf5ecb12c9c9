//! Owns what a container costs: one run of busybox beside the same bundle by `crun run` and `youki run`, the decision to fall
//! back, and unpacking beside `umoci unpack`.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use vyr_oci_fallback::container::{self, Limits, Network, Outcome, Request, Stdio};
use vyr_oci_fallback::engine::Choice;
use vyr_oci_fallback::process::Process;
use vyr_oci_fallback::snapshot::{Method, Rights, Rootfs};
use vyr_proto::v0::{ExecutionPath, SubmitTaskRequest, TaskSpec};

use super::api::{Client, Server, WAIT, elapsed, succeeded};
use super::samples::{Sample, micros};
use super::stage::{Stage, said, sample, timed, version};

/// Whole starts to exits, ours and the engines' own, in turns.
pub(crate) fn containers(stage: &Stage) -> Result<()> {
    if again_without_unified(stage, "containers")? {
        return Ok(());
    }
    let folder = stage.folder.path();
    let (crun, youki) = (Stage::tool("crun")?, Stage::tool("youki").ok());
    let bundle = bundle(folder, &crun)?;
    let rootfs = Rootfs::of_folders(vec![bundle.join("rootfs")], Method::Overlay, Rights::Root);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ours = |engine: &Choice, case: &str, round: usize| -> Result<Sample> {
        let request = request(&rootfs)?;
        let began = Instant::now();
        let done = runtime.block_on(container::run(engine, request, &CancellationToken::new()))?;
        let wall_us = micros(began.elapsed());
        ensure!(done.outcome == Outcome::Exited(0), "{case}: {:?}", done.outcome);
        Ok(Sample { case: case.to_owned(), round, wall_us, peak_kib: None })
    };
    let peer = |program: &Path, round: usize| {
        let mut command = Command::new(program);
        command.arg("--root").arg(folder.join("state")).args(["run", "--bundle"]).arg(&bundle);
        command.arg(format!("vyr-bench-{}-{round}", std::process::id()));
        command
    };
    let reference = dual(stage, "containers", &limited()?, &image(stage)?)?;
    let installed = Choice::Installed(crun.clone());
    let whole = |engine: &str| {
        let mut command = stage.vyr("containers");
        command.args(["--container-engine", engine, "run", "--path", "container", &reference]);
        command
    };
    for _ in 0..3 {
        timed(whole("libcontainer"))?;
        ours(&Choice::Libcontainer, "", 0)?;
        ours(&installed, "", 0)?;
    }
    let mut samples = Vec::new();
    for round in 0..stage.rounds(200) {
        samples.push(ours(&Choice::Libcontainer, "by libcontainer", round)?);
        samples.push(sample("crun run", round, peer(&crun, round))?);
        samples.push(ours(&installed, "by crun", round)?);
        if let Some(youki) = &youki {
            // It misses the end of what ends at once, and would wait for ever: it is left to end by itself.
            let mut detached = peer(youki, round);
            detached.arg("--detach");
            samples.push(sample("youki run", round, detached)?);
            let mut delete = Command::new(youki);
            delete.arg("--root").arg(folder.join("state")).args(["delete", "--force"]);
            delete.arg(format!("vyr-bench-{}-{round}", std::process::id()));
            timed(delete)?;
        }
        samples.push(sample("vyr run, whole process", round, whole("libcontainer"))?);
    }
    let mut versions = vec![version(&stage.vyr, "--version")?, version(&crun, "--version")?];
    if let Some(youki) = &youki {
        versions.push(version(youki, "--version")?);
    }
    let note = "start to exit of busybox `true`, its layers unpacked: `by` is the library's own call, as a node makes it, with \
         everything that a container is given by default (a read-only root of an overlay, a filter of system calls, cgroups); \
         `crun run` and `youki run --detach` (which doesn't wait for the end: in the foreground it misses an end that comes at once, \
         and hangs) of a bundle with the same namespaces, limits and mounts, without the filter; `vyr run` is the \
         whole command, signature and all";
    stage.keep("containers", versions, note, &samples)
}

/// What falling back adds to a failed start: tasks of one dual artifact whose Wasm needs more memory than it may have, and the
/// same with the container asked for, in turns.
pub(crate) fn decision(stage: &Stage) -> Result<()> {
    let image = image(stage)?;
    let artifacts = [
        ("limit: fell back", dual(stage, "decision", &limited()?, &image)?),
        ("unknown_import: fell back", dual(stage, "decision", &importing()?, &image)?),
    ];
    let node = Server::node(stage, "decision", &[])?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let samples = runtime.block_on(async {
        let mut client = Client::connect(node.address).await?;
        let mut samples = Vec::new();
        for round in 0..stage.rounds(200) + 3 {
            for (case, reference) in &artifacts {
                for (case, path) in [
                    ((*case).to_owned(), ExecutionPath::Unspecified),
                    (format!("{case}, peer: asked for"), ExecutionPath::Container),
                ] {
                    let spec = TaskSpec { reference: reference.clone(), path: path.into(), ..TaskSpec::default() };
                    let request = SubmitTaskRequest { spec: Some(spec), wait: Some(WAIT), ..Default::default() };
                    let execution = succeeded(client.send(request).await?)?.execution.context("no execution")?;
                    ensure!(execution.path() == ExecutionPath::Container, "{execution:?}");
                    let wall_us = micros(elapsed(execution.submit_to_start, "submit_to_start")?);
                    // The first ones unpack, and find out.
                    if let Some(round) = round.checked_sub(3) {
                        samples.push(Sample { case, round, wall_us, peak_kib: None });
                    }
                }
            }
        }
        anyhow::Ok(samples)
    })?;
    node.stop()?;
    let note = "tasks of a node over loopback gRPC, by the node's submit_to_start: a dual artifact whose Wasm can't be started, \
         which falls back, and the same artifact with the container asked for, which doesn't try the Wasm; all of it is ready";
    stage.keep("fallback-decision", vec![version(&stage.vyr, "--version")?], note, &samples)
}

/// An image of 300 MiB in five layers, by the package's own benchmark.
pub(crate) fn unpack(stage: &Stage) -> Result<()> {
    let raw = stage.folder.path().join("unpack.jsonl");
    let rounds = stage.rounds(9).to_string();
    let status = Command::new("cargo")
        .args(["bench", "--locked", "--quiet", "-p", "vyr-oci-fallback", "--bench", "unpack", "--"])
        .arg(&raw)
        .arg(rounds)
        .status()?;
    ensure!(status.success(), "the benchmark of unpacking failed");
    let mut samples = Vec::new();
    for line in std::fs::read_to_string(&raw)?.lines() {
        let value: Value = serde_json::from_str(line)?;
        let case = match value["what"].as_str().context("no name")? {
            "umoci" => "umoci unpack".to_owned(),
            ours => format!("unpack, {ours}"),
        };
        let round = usize::try_from(value["round"].as_u64().context("no round")?)?;
        let wall_us = value["seconds"].as_f64().context("no time")? * 1e6;
        samples.push(Sample { case, round, wall_us, peak_kib: None });
    }
    let note = "an image of 300 MiB in five layers of gzip, blobs in the page cache, both verify every digest, in turns; none waits \
         for the disk";
    stage.keep("unpack", vec![version(&Stage::tool("umoci")?, "--version")?], note, &samples)
}

/// crun refuses the hybrid cgroup mount; everything runs in one mount namespace without it, so that all are alike.
fn again_without_unified(stage: &Stage, part: &str) -> Result<bool> {
    if !Path::new("/sys/fs/cgroup/unified").exists() || std::env::var_os("BENCH_UNSHARED").is_some() {
        return Ok(false);
    }
    let status = Command::new("unshare")
        .args(["-m", "sh", "-c", "umount /sys/fs/cgroup/unified; exec \"$0\" \"$@\""])
        .arg(std::env::current_exe()?)
        .args(stage.quick.then_some("--quick"))
        .arg("--results")
        .arg(&stage.results)
        .arg("--vyr")
        .arg(&stage.vyr)
        .arg(part)
        .env("BENCH_UNSHARED", "1")
        .status()?;
    ensure!(status.success(), "{part} failed");
    Ok(true)
}

fn null() -> Result<OwnedFd> {
    Ok(std::fs::File::options().read(true).write(true).open("/dev/null")?.into())
}

fn request(rootfs: &Rootfs) -> Result<Request<'_>> {
    Ok(Request {
        id: format!("vyr-bench-{}", std::process::id()),
        rootfs,
        process: Process {
            argv: vec!["/bin/busybox".into(), "true".into()],
            env: vec![("PATH".into(), "/bin".into())],
            cwd: "/".into(),
            uid: 0,
            gid: 0,
            groups: Vec::new(),
            stop_signal: 15,
            volumes: Vec::new(),
        },
        hostname: "vyr".into(),
        mounts: Vec::new(),
        writable_root: false,
        limits: Limits { memory_bytes: Some(256 << 20), ..Limits::default() },
        network: Network::None,
        stop_grace: Duration::from_secs(1),
        stdio: Stdio { stdin: null()?, stdout: null()?, stderr: null()? },
    })
}

/// What an engine is given by itself: its own default spec, with what ours has beside it as far as the spec can say it.
fn bundle(folder: &Path, crun: &Path) -> Result<PathBuf> {
    let bundle = folder.join("bundle");
    std::fs::create_dir_all(bundle.join("rootfs/bin"))?;
    for name in ["proc", "dev", "sys", "tmp", "run", "var/tmp"] {
        std::fs::create_dir_all(bundle.join("rootfs").join(name))?;
    }
    std::fs::copy(Stage::tool("busybox")?, bundle.join("rootfs/bin/busybox"))?;
    let mut spec = Command::new(crun);
    spec.arg("spec").current_dir(&bundle);
    said(spec)?;
    let path = bundle.join("config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path)?)?;
    config["process"]["terminal"] = false.into();
    config["process"]["args"] = json!(["/bin/busybox", "true"]);
    config["root"]["readonly"] = true.into();
    config["linux"]["resources"] = json!({"memory": {"limit": 256 << 20}, "pids": {"limit": 1024}});
    let mounts = config["mounts"].as_array_mut().context("no mounts")?;
    for target in ["/tmp", "/run", "/var/tmp"] {
        mounts.push(json!({"destination": target, "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "nodev"]}));
    }
    std::fs::write(&path, config.to_string())?;
    Ok(bundle)
}

/// A layout with busybox in it, by umoci.
fn image(stage: &Stage) -> Result<String> {
    let folder = stage.folder.path();
    let root = folder.join("busybox-root");
    std::fs::create_dir_all(root.join("bin"))?;
    std::fs::copy(Stage::tool("busybox")?, root.join("bin/busybox"))?;
    let tar = folder.join("busybox.tar");
    let mut pack = Command::new("tar");
    pack.arg("-C").arg(&root).arg("-cf").arg(&tar).arg("bin");
    said(pack)?;
    let umoci = Stage::tool("umoci")?;
    let layout = folder.join("busybox-image");
    let named = format!("{}:made", layout.display());
    let run = |arguments: &[&str]| -> Result<String> {
        let mut command = Command::new(&umoci);
        command.args(arguments);
        said(command)
    };
    run(&["init", "--layout", &layout.display().to_string()])?;
    run(&["new", "--image", &named])?;
    run(&["raw", "add-layer", "--image", &named, &tar.display().to_string()])?;
    let architecture = vyr::artifact::architecture();
    run(&[
        "config",
        "--image",
        &named,
        "--os",
        "linux",
        "--architecture",
        architecture,
        "--config.cmd",
        "/bin/busybox",
        "--config.cmd",
        "true",
    ])?;
    Ok(format!("oci:{named}"))
}

/// Needs more memory to start than it may have.
fn limited() -> Result<Vec<u8>> {
    Ok(wat::parse_str(r#"(module (memory (export "memory") 20000) (func (export "_start")))"#)?)
}

/// Imports what nobody provides.
fn importing() -> Result<Vec<u8>> {
    Ok(wat::parse_str(r#"(module (import "env" "f" (func)) (func (export "_start")))"#)?)
}

/// Puts both into the store of `home`; the bare digest.
fn dual(stage: &Stage, home: &str, wasm: &[u8], image: &str) -> Result<String> {
    let folder = stage.folder.path();
    let file = folder.join("dual.wasm");
    std::fs::write(&file, wasm)?;
    let mut push = stage.vyr(home);
    push.arg("push").arg(format!("oci:{}:v1", folder.join(format!("dual-{}", wasm.len())).display()));
    push.arg(&file).args(["--fallback", image]);
    let pushed = said(push)?;
    Ok(pushed.trim().rsplit_once('@').context("no digest")?.1.to_owned())
}
