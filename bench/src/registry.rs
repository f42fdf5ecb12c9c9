//! The node as a registry against `docker-registry`: pushes and pulls by `oras`, and 200 who pull one blob at once.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::api::Server;
use super::pull::random;
use super::samples::{Sample, micros};
use super::stage::{Registry, Stage, said, timed, version};

/// Where a case pushes and pulls.
struct Peer {
    name: &'static str,
    host: String,
}

/// One content: files that are pushed as the layers of one artifact.
struct Content {
    name: &'static str,
    files: Vec<PathBuf>,
    rounds: usize,
}

pub(crate) fn measure(stage: &Stage) -> Result<()> {
    let folder = stage.folder.path();
    let node = Server::node(stage, "registry-node", &["--no-socket"])?;
    let debian = Registry::start(folder)?;
    let peers = [
        Peer { name: "vyr serve", host: format!("localhost:{}", node.address.port()) },
        Peer { name: "docker-registry", host: debian.host.clone() },
    ];
    let mut samples = Vec::new();
    for content in contents(stage)? {
        // The first two rounds, in which both grow their folders, don't count.
        for number in 0..content.rounds + 2 {
            fresh(&content, number)?;
            for peer in &peers {
                // What others left to be written must not fall into anybody's time.
                rustix::fs::sync();
                let (push, pull) = there_and_back(folder, peer, &content, number)?;
                for (what, wall) in [("push", push), ("pull", pull)] {
                    samples.push(Sample {
                        case: format!("{}: {what} {}", peer.name, content.name),
                        round: number.wrapping_sub(2),
                        wall_us: micros(wall),
                        peak_kib: (peer.name == "vyr serve").then(|| high_water(node.pid())).flatten(),
                    });
                }
            }
        }
    }
    samples.retain(|s: &Sample| s.round < usize::MAX / 2);
    samples.extend(at_once(stage, &peers, node.pid())?);
    // What it prints begins with its own path.
    let docker = version(&Stage::tool("docker-registry")?, "--version")?;
    let docker = format!("docker-registry {}", docker.split_whitespace().last().unwrap_or_default());
    let oras = version(&Stage::tool("oras")?, "version")?.replace("Version:", "oras");
    let oras = oras.split_whitespace().collect::<Vec<_>>().join(" ");
    let versions = vec![version(&stage.vyr, "--version")?, docker, oras];
    stage.keep("registry", versions, "oras against the node and against docker-registry on the same disk, whole process; the node syncs each push to disk before it says so, docker-registry doesn't", &samples)
}

fn contents(stage: &Stage) -> Result<Vec<Content>> {
    let folder = stage.folder.path();
    let large = folder.join("large.bin");
    random(&large, if stage.quick { 8 << 20 } else { 512 << 20 })?;
    let count = if stage.quick { 50 } else { 2000 };
    let small = folder.join("small");
    std::fs::create_dir(&small)?;
    let mut files = Vec::with_capacity(count);
    for number in 0..count {
        let file = small.join(format!("{number}.bin"));
        random(&file, 4096)?;
        files.push(file);
    }
    let names = if stage.quick { ["8 MiB", "50 × 4 KiB"] } else { ["512 MiB", "2,000 × 4 KiB"] };
    Ok(vec![
        Content { name: names[0], files: vec![large], rounds: stage.rounds(11) },
        Content { name: names[1], files, rounds: stage.rounds(7) },
    ])
}

/// Makes the content another one: what a registry has is not pushed again.
fn fresh(content: &Content, number: usize) -> Result<()> {
    for file in &content.files {
        std::fs::OpenOptions::new().write(true).open(file)?.write_all(&number.to_be_bytes())?;
    }
    Ok(())
}

/// Pushes it and pulls it back.
fn there_and_back(folder: &Path, peer: &Peer, content: &Content, number: usize) -> Result<(Duration, Duration)> {
    let oras = Stage::tool("oras")?;
    let reference = format!("{}/bench/content-{}:v{number}", peer.host, content.files.len());
    let mut push = Command::new(&oras);
    push.args(["push", "--disable-path-validation", &reference]).current_dir(folder).env("HOME", folder);
    for file in &content.files {
        push.arg(format!("{}:application/octet-stream", file.strip_prefix(folder)?.display()));
    }
    let pushed = timed(push)?;
    rustix::fs::sync();
    let out = folder.join("pulled");
    let mut pull = Command::new(&oras);
    pull.args(["pull", "-o"]).arg(&out).arg(&reference).current_dir(folder).env("HOME", folder);
    let pulled = timed(pull)?;
    let last = content.files.last().context("no file")?.strip_prefix(folder)?;
    ensure!(std::fs::read(out.join(last))? == std::fs::read(folder.join(last))?, "other bytes came back");
    std::fs::remove_dir_all(&out)?;
    Ok((pushed, pulled))
}

/// Many connections that pull one blob at once: each one's time from its connect to its last byte. Beside the registries
/// a program that writes the same bytes from memory to whoever connects, which is as fast as the loopback goes.
fn at_once(stage: &Stage, peers: &[Peer], node: u32) -> Result<Vec<Sample>> {
    let (name, bytes, clients) = if stage.quick { ("1 MiB", 1 << 20, 20) } else { ("64 MiB", 64 << 20, 200) };
    let folder = stage.folder.path();
    let file = folder.join("blob.bin");
    random(&file, bytes)?;
    let digest = vyr::oci::sha256(&std::fs::read(&file)?).to_string();
    for peer in peers {
        let mut push = Command::new(Stage::tool("oras")?);
        push.args(["blob", "push", &format!("{}/bench/blob", peer.host), "blob.bin"]);
        said({
            push.current_dir(folder).env("HOME", folder);
            push
        })?;
    }
    let content: Arc<[u8]> = std::fs::read(&file)?.into();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
    let bare = Peer { name: "bare TCP", host: format!("localhost:{}", listener.local_addr()?.port()) };
    runtime.spawn(write_to_all(listener, content));
    let mut samples = Vec::new();
    for round in 0..stage.rounds(5) {
        for peer in peers.iter().chain(std::iter::once(&bare)) {
            let port = peer.host.rsplit_once(':').context("no port")?.1.parse()?;
            let began = Instant::now();
            let walls = runtime.block_on(async {
                let pulls: Vec<_> =
                    (0..clients).map(|_| tokio::spawn(pull_blob(port, digest.clone(), bytes))).collect();
                let mut walls = Vec::with_capacity(clients);
                for pull in pulls {
                    walls.push(pull.await??);
                }
                Ok::<_, anyhow::Error>(walls)
            })?;
            let all = began.elapsed();
            let peak_kib = (peer.name == "vyr serve").then(|| high_water(node)).flatten();
            let case = format!("{}: {clients} at once of {name}", peer.name);
            samples.extend(walls.iter().map(|w| Sample {
                case: format!("{case}, each"),
                round,
                wall_us: micros(*w),
                peak_kib,
            }));
            samples.push(Sample { case: format!("{case}, all"), round, wall_us: micros(all), peak_kib });
        }
    }
    Ok(samples)
}

async fn pull_blob(port: u16, digest: String, bytes: u64) -> Result<Duration> {
    let began = Instant::now();
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    let ask = format!("GET /v2/bench/blob/blobs/{digest} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(ask.as_bytes()).await?;
    let mut buffer = vec![0; 64 << 10];
    let mut got = 0;
    loop {
        match stream.read(&mut buffer).await? {
            0 => break,
            read => got += read as u64,
        }
    }
    // With the head of the answer.
    ensure!((bytes..bytes + 4096).contains(&got), "{got} bytes came of {bytes}");
    Ok(began.elapsed())
}

async fn write_to_all(listener: TcpListener, content: Arc<[u8]>) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let content = Arc::clone(&content);
        tokio::spawn(async move {
            // What isn't read when a connection ends makes it end with a reset.
            let mut asked = [0; 1024];
            // Whoever has gone sees no more; that isn't counted.
            if stream.read(&mut asked).await.is_ok() {
                drop(stream.write_all(&content).await);
            }
        });
    }
}

/// The most memory that a process has held so far, in KiB.
fn high_water(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|l| l.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.trim().parse().ok())
}
