//! Whole processes: a cached, compiled, signed hello module by `vyr run`, the same module precompiled by `wasmtime run`, and a
//! busybox image by `crun run`.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::stage::{Registry, Stage, said, sample, timed, version};

pub(crate) fn measure(stage: &Stage) -> Result<()> {
    // crun refuses the hybrid cgroup mount; everything runs in one mount namespace without it, so that all are alike.
    if std::path::Path::new("/sys/fs/cgroup/unified").exists() && std::env::var_os("BENCH_UNSHARED").is_none() {
        let status = Command::new("unshare")
            .args(["-m", "sh", "-c", "umount /sys/fs/cgroup/unified; exec \"$0\" \"$@\""])
            .arg(std::env::current_exe()?)
            .args(if stage.quick { vec!["--quick"] } else { vec![] })
            .arg("--results")
            .arg(&stage.results)
            .arg("--vyr")
            .arg(&stage.vyr)
            .args(["--wasmtime".into(), stage.wasmtime()?])
            .arg("run-process")
            .env("BENCH_UNSHARED", "1")
            .status()?;
        ensure!(status.success(), "run-process failed");
        return Ok(());
    }
    let wasm = vyr_guests::guest("hello-p1");
    let folder = stage.folder.path();
    let reference = {
        let registry = Registry::start(folder)?;
        let mut push = stage.vyr("home");
        push.args(["push", &format!("{}/hello:v1", registry.host)]).arg(&wasm);
        let pushed = said(push)?;
        let (name, digest) = pushed.split_once('@').context("no digest")?;
        format!("{}@{digest}", name.rsplit_once(':').context("no tag")?.0)
    };
    // From here on there is no registry: what runs is what the store holds.
    let run = || {
        let mut command = stage.vyr("home");
        command.args(["run", &reference]);
        command
    };
    let wasmtime = stage.wasmtime()?;
    let compiled = folder.join("hello.cwasm");
    let mut compile = Command::new(&wasmtime);
    compile.arg("compile").arg(&wasm).arg("-o").arg(&compiled);
    timed(compile)?;
    let peer = || {
        let mut command = Command::new(&wasmtime);
        command.args(["run", "--allow-precompiled"]).arg(&compiled);
        command
    };
    let crun = Stage::tool("crun")?;
    let bundle = folder.join("bundle");
    std::fs::create_dir_all(bundle.join("rootfs/bin"))?;
    std::fs::copy(Stage::tool("busybox")?, bundle.join("rootfs/bin/busybox"))?;
    let mut spec = Command::new(&crun);
    spec.arg("spec").current_dir(&bundle);
    said(spec)?;
    let path = bundle.join("config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(&path)?)?;
    config["process"]["terminal"] = false.into();
    config["process"]["args"] = serde_json::json!(["/bin/busybox", "echo", "hello from busybox"]);
    std::fs::write(&path, config.to_string())?;
    let container = |round: usize| {
        let mut command = Command::new(&crun);
        command
            .args(["--cgroup-manager=cgroupfs", "run", "--bundle"])
            .arg(&bundle)
            .arg(format!("vyr-bench-{}-{round}", std::process::id()));
        command
    };
    for _ in 0..5 {
        timed(run())?;
        timed(peer())?;
    }
    let mut samples = Vec::new();
    for round in 0..stage.rounds(300) {
        samples.push(sample("vyr run", round, run())?);
        samples.push(sample("wasmtime run", round, peer())?);
        samples.push(sample("crun run", round, container(round))?);
    }
    let versions =
        vec![version(&stage.vyr, "--version")?, version(&wasmtime, "--version")?, version(&crun, "--version")?];
    stage.keep(
        "run-process",
        versions,
        "whole process, start to exit; hello module, signed, cached and compiled; registry stopped",
        &samples,
    )
}
