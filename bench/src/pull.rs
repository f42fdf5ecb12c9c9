//! A large pull from a loopback registry: `vyr pull` (verified, synced to disk) against `oras pull`.

use std::io::{Read, Write};
use std::path::Path;
use std::process::Command;

use anyhow::Result;

use super::samples::{Sample, micros};
use super::stage::{Registry, Stage, said, timed_with_memory, version};

/// A file of bytes that don't compress.
pub(crate) fn random(path: &Path, bytes: u64) -> Result<()> {
    let mut source = std::fs::File::open("/dev/urandom")?.take(bytes);
    let mut out = std::fs::File::create(path)?;
    std::io::copy(&mut source, &mut out)?;
    Ok(out.flush()?)
}

pub(crate) fn measure(stage: &Stage) -> Result<()> {
    let folder = stage.folder.path();
    let registry = Registry::start(folder)?;
    let oras = Stage::tool("oras")?;
    let mut samples = Vec::new();
    let sizes: &[(&str, u64, usize)] =
        if stage.quick { &[("16 MiB", 16 << 20, 3)] } else { &[("512 MiB", 512 << 20, 21), ("2 GiB", 2 << 30, 1)] };
    for (name, bytes, rounds) in sizes {
        let file = folder.join("content.bin");
        random(&file, *bytes)?;
        let repository = format!("{}/big-{bytes}", registry.host);
        let mut push = Command::new(&oras);
        push.args([
            "push",
            "--format",
            "go-template={{.digest}}",
            &format!("{repository}:v1"),
            "content.bin:application/octet-stream",
        ]);
        push.current_dir(folder).env("HOME", folder);
        let reference = format!("{repository}@{}", said(push)?);
        std::fs::remove_file(&file)?;
        // After the push the disk is busy for some seconds more; the first two rounds of several don't count.
        let warm = if *rounds > 3 { 2 } else { 0 };
        for number in 0..*rounds + warm {
            let round = number.wrapping_sub(warm);
            // What others left to be written must not fall into either's time.
            rustix::fs::sync();
            let mut ours = stage.vyr("pull-home");
            ours.args(["pull", &reference]);
            let (wall, peak) = timed_with_memory(ours)?;
            samples.push(Sample {
                case: format!("vyr pull {name}"),
                round,
                wall_us: micros(wall),
                peak_kib: Some(peak),
            });
            std::fs::remove_dir_all(folder.join("pull-home"))?;
            let out = folder.join("oras-out");
            std::fs::create_dir(&out)?;
            rustix::fs::sync();
            let mut peer = Command::new(&oras);
            peer.args(["pull", &reference]).current_dir(&out).env("HOME", folder);
            let (wall, peak) = timed_with_memory(peer)?;
            samples.push(Sample {
                case: format!("oras pull {name}"),
                round,
                wall_us: micros(wall),
                peak_kib: Some(peak),
            });
            std::fs::remove_dir_all(out)?;
        }
        samples.retain(|s: &Sample| s.round < usize::MAX / 2);
        std::fs::remove_dir_all(folder.join("registry"))?;
    }
    let versions = vec![version(&stage.vyr, "--version")?, version(&oras, "version")?];
    stage.keep("pull", versions, "one layer of random bytes from docker-registry 2.8 on loopback, into an empty store; vyr syncs to disk, oras doesn't", &samples)
}
