//! Owns the proof that a case is right: its image, unpacked by umoci and run by crun, gives what the case says. What the
//! reference doesn't do nobody can be asked for.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::case::{Case, Types};
use crate::judge::{self, Came};
use crate::kit::timed;
use crate::make::Workshop;
use crate::oci::{self, Layout, TAG};

/// What a container may write besides its volumes: as VYR promises it.
const TEMPORARY: [&str; 3] = ["/tmp", "/var/tmp", "/run"];

/// What root in a container may do by Docker's defaults, which software in images is used to.
const CAPABILITIES: [&str; 13] = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

/// Runs the case; what is wrong, or nothing.
pub(crate) fn check(workshop: &Workshop<'_>, case: &Case) -> Result<Option<String>> {
    let layout = workshop.image(case)?;
    let scratch = workshop.cache.scratch()?;
    let (plain, bundle) = (scratch.path().join("plain"), scratch.path().join("bundle"));
    let run = simplify(&layout, &plain).context("reading the image")?;
    let image = format!("{}:{TAG}", plain.display());
    workshop.kit.run("umoci", &["unpack", "--image", &image, &bundle.display().to_string()])?;
    adjust(case, &run, &bundle)?;
    let id = format!("corpus-{}-{}", std::process::id(), case.name);
    let mut command = Command::new("unshare");
    // crun refuses cgroups of both versions at once, as some machines have them: it needn't see the second one.
    let script = "umount /sys/fs/cgroup/unified 2>/dev/null; exec \"$0\" run --bundle \"$1\" \"$2\"";
    // In a process namespace that ends with the time that it has: crun alone wouldn't take its container with it.
    command
        .args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", script])
        .arg(workshop.kit.path("crun")?)
        .arg(&bundle)
        .arg(&id);
    let output = timed(command, case.timeout, case.stdin.as_bytes())?;
    let mut delete = Command::new(workshop.kit.path("crun")?);
    delete.args(["delete", "--force", &id]);
    drop(delete.output());
    Ok(judge::wrong(case, &Came { exit: output.status.code(), stdout: output.stdout, stderr: output.stderr }))
}

/// umoci reads plain OCI images of one platform alone: a layout of the same blobs, so described. Returns the config's part
/// about running.
fn simplify(layout: &Path, plain: &Path) -> Result<Value> {
    let mut descriptor = oci::named(layout)?;
    let manifest = loop {
        let value = oci::read(layout, &descriptor)?;
        let Some(entries) = value["manifests"].as_array() else { break value };
        let here =
            |entry: &&Value| entry["platform"].is_null() || entry["platform"]["architecture"] == oci::architecture();
        descriptor = entries.iter().find(here).context("the index has nothing for this machine")?.clone();
    };
    let out = Layout::create(plain)?;
    let mut layers = manifest["layers"].clone();
    for layer in layers.as_array_mut().context("a manifest lists layers")? {
        let kind = layer["mediaType"].as_str().unwrap_or_default();
        let plain_type = oci::layer_type(Types::Oci, crate::case::Compression::None);
        let suffix = ["gzip", "zstd"].into_iter().find(|suffix| kind.ends_with(suffix));
        layer["mediaType"] = suffix.map_or_else(|| json!(plain_type), |suffix| json!(format!("{plain_type}+{suffix}")));
        std::fs::hard_link(oci::path_of(layout, layer)?, oci::path_of(plain, layer)?)
            .or_else(|error| if error.kind() == std::io::ErrorKind::AlreadyExists { Ok(()) } else { Err(error) })?;
    }
    let config = oci::read(layout, &manifest["config"])?;
    let described = out.json(oci::CONFIG, &config)?;
    let manifest = json!({ "schemaVersion": 2, "mediaType": oci::MANIFEST, "config": described, "layers": layers });
    let named = out.json(oci::MANIFEST, &manifest)?;
    out.name(named)?;
    Ok(config["config"].clone())
}

/// umoci's config.json, with what the case says about the run.
fn adjust(case: &Case, run: &Value, bundle: &Path) -> Result<()> {
    let path = bundle.join("config.json");
    let mut spec: Value = serde_json::from_slice(&std::fs::read(&path)?)?;
    // crun of this suite knows none after it; nothing here needs one.
    spec["ociVersion"] = json!("1.0.2");
    spec["process"]["terminal"] = json!(false);
    let root = spec["process"]["user"]["uid"] == 0;
    let set = |name: &str, yes: bool| (name.to_owned(), if yes { json!(CAPABILITIES) } else { json!([]) });
    let sets = [set("bounding", true), set("effective", root), set("permitted", root)];
    spec["process"]["capabilities"] = serde_json::Map::from_iter(sets).into();
    spec["process"]["noNewPrivileges"] = json!(true);
    spec["root"]["readonly"] = json!(!case.writable_root);
    spec["hostname"] = json!("corpus");
    if !case.args.is_empty() {
        let entrypoint = run["Entrypoint"].as_array().cloned().unwrap_or_default();
        let args = case.args.iter().map(|arg| json!(arg));
        spec["process"]["args"] = entrypoint.into_iter().chain(args).collect();
    }
    // umoci sets HOME by the user's entry even where the image says otherwise.
    let name =
        |variable: &Value| variable.as_str().unwrap_or_default().split('=').next().unwrap_or_default().to_owned();
    let own = run["Env"].as_array().cloned().unwrap_or_default();
    let env = spec["process"]["env"].as_array_mut().context("a process has variables")?;
    env.retain(|variable| own.iter().all(|one| name(one) != name(variable)));
    env.extend(own);
    let mounts = spec["mounts"].as_array_mut().context("a spec lists mounts")?;
    // It makes volumes folders of the root's; here they are places to write of their own, with what the image has there.
    mounts.retain(|mount| {
        mount["type"] != "tmpfs" || mount["destination"].as_str().is_some_and(|d| d.starts_with("/dev"))
    });
    let volumes = run["Volumes"].as_object().map(|set| set.keys().cloned().collect::<Vec<_>>()).unwrap_or_default();
    let temporary = TEMPORARY.map(str::to_owned);
    for place in temporary.iter().chain(&volumes) {
        let mode = if place.ends_with("tmp") { "mode=1777" } else { "mode=755" };
        let there = bundle.join("rootfs").join(place.trim_start_matches('/'));
        if volumes.contains(place) && there.is_dir() {
            // A bind of the unpacked folder itself: writable although the root isn't, with the image's content and owner.
            mounts.push(json!({ "destination": place, "type": "bind", "source": there, "options": ["bind", "rw"] }));
        } else if !there.is_symlink() {
            std::fs::create_dir_all(&there)?;
            let options = ["nosuid", "nodev", mode];
            mounts.push(json!({ "destination": place, "type": "tmpfs", "source": "tmpfs", "options": options }));
        }
    }
    std::fs::write(&path, serde_json::to_vec_pretty(&spec)?)?;
    Ok(())
}
