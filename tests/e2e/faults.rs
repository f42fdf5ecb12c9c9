//! Bad input and bad company: each fault ends with the documented code and words to act on, and leaves nothing behind.

use std::fs;
use std::process::Command;

use serde_json::json;
use vyr_guests::guest;

use crate::support::{BadRegistry, Home, Registry, Reply, sha256, tar_of};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const WASM: &[u8] = b"\0asm\x01\0\0\0";

/// A home whose registry client gives up soon.
fn hasty() -> Home {
    let home = Home::new();
    fs::create_dir_all(home.vyr_home()).unwrap();
    fs::write(
        home.vyr_home().join("config.toml"),
        "[registry]\nread-timeout-seconds = 1\nconnect-timeout-seconds = 1\nretries = 1\n",
    )
    .unwrap();
    home
}

/// Nothing is listed, and no file of a write is left but a partial download, which the next pull goes on from.
fn nothing_left(home: &Home) {
    let listed = home.vyr(["artifacts", "--all", "--output", "json"]).expect(0);
    assert_eq!(listed.stdout.trim(), "[]");
    let left: Vec<_> = fs::read_dir(home.vyr_home().join("ingest"))
        .map(|d| d.map(|e| e.unwrap().path()).collect())
        .unwrap_or_default();
    assert!(left.iter().all(|p| p.extension().is_some_and(|e| e == "partial")), "{left:?}");
}

fn manifest(layers: &[(&[u8], u64)]) -> Vec<u8> {
    json!({
        "schemaVersion": 2, "mediaType": MANIFEST,
        "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": sha256(b"{}"), "size": 2},
        "layers": layers.iter().map(|(bytes, size)| json!({"mediaType": "application/wasm", "digest": sha256(bytes), "size": size})).collect::<Vec<_>>(),
    })
    .to_string()
    .into_bytes()
}

/// A registry that serves `manifest` under any name and for each blob what `blob` says.
fn serving(manifest: Vec<u8>, blob: impl Fn(&str) -> Reply + Send + Sync + 'static) -> BadRegistry {
    BadRegistry::start(move |path| match path {
        p if p.contains("/manifests/sha256-") || p.contains("/referrers/") => {
            Reply::Whole(404, "application/json", b"{}".to_vec())
        }
        p if p.contains("/manifests/") => Reply::Whole(200, MANIFEST, manifest.clone()),
        p if p.contains(&sha256(b"{}")) => Reply::Whole(200, "application/json", b"{}".to_vec()),
        p if p.contains("/blobs/") => blob(p),
        _ => Reply::Whole(200, "application/json", b"{}".to_vec()),
    })
}

#[test]
fn a_registry_that_lies_about_content_is_refused() {
    let honest = manifest(&[(WASM, 8)]);
    let digest = sha256(&honest);
    let cases: Vec<(&str, BadRegistry, i32, &str)> = vec![
        ("another manifest", serving(manifest(&[(b"other", 5)]), |_| Reply::Hang), 126, "digest"),
        (
            "another blob",
            serving(honest.clone(), |_| Reply::Whole(200, "application/octet-stream", b"\0asmEVIL".to_vec())),
            126,
            "digest",
        ),
        (
            "a longer blob",
            serving(honest.clone(), |_| Reply::Whole(200, "application/octet-stream", vec![7; 900])),
            126,
            "bytes",
        ),
        (
            "a shorter blob",
            serving(honest.clone(), |_| Reply::Whole(200, "application/octet-stream", b"\0asm".to_vec())),
            126,
            "bytes",
        ),
        ("a cut blob", serving(honest.clone(), |_| Reply::Cut(8, b"\0asm".to_vec())), 125, "blob"),
    ];
    for (what, registry, code, word) in cases {
        let home = hasty();
        let ran = home.vyr(["run", "--allow-unsigned", &format!("{}/app@{digest}", registry.host)]).expect(code);
        assert!(ran.stderr.contains(word) && ran.stderr.contains("next:"), "{what}: {}", ran.stderr);
        nothing_left(&home);
    }
}

#[test]
fn bombs_are_refused_before_they_are_read() {
    let many: Vec<(&[u8], u64)> = vec![(WASM, 8); 5000];
    let layers = manifest(&many);
    let mut huge = manifest(&[(WASM, 8)]);
    huge.resize(5 << 20, b' ');
    for (what, body, words) in [("5000 layers", layers, "5000 layers"), ("a manifest of 5 MiB", huge, "4194304")] {
        let digest = sha256(&body);
        let registry = serving(body, |_| Reply::Hang);
        let home = hasty();
        let ran = home.vyr(["run", "--allow-unsigned", &format!("{}/app@{digest}", registry.host)]);
        assert!(matches!(ran.status, 125 | 126), "{what}: {ran:?}");
        assert!(ran.stderr.contains(words) || ran.stderr.contains("4 MiB"), "{what}: {}", ran.stderr);
        nothing_left(&home);
    }
}

#[test]
fn each_status_has_its_code_and_its_words() {
    for (status, code, words) in
        [(401, 125, "log"), (403, 125, "403"), (404, 127, "no"), (429, 125, "429"), (500, 125, "500")]
    {
        let registry = BadRegistry::start(move |_| {
            Reply::Whole(status, "application/json", br#"{"errors":[{"code":"X","message":"because"}]}"#.to_vec())
        });
        let home = hasty();
        let ran = home.vyr(["run", &format!("{}/app:v1", registry.host)]).expect(code);
        assert!(ran.stderr.contains(words) && ran.stderr.contains(&registry.host), "{status}: {}", ran.stderr);
        assert!(ran.stderr.contains("next:"), "{status}: {}", ran.stderr);
        let expected = if matches!(status, 429 | 500) { 2 } else { 1 };
        assert!(registry.asked() >= expected, "{status}: transient faults are tried again");
        nothing_left(&home);
    }
}

#[test]
fn a_registry_that_hangs_or_is_not_there_ends_in_time() {
    let registry = BadRegistry::start(|_| Reply::Hang);
    let home = hasty();
    let ran = home.vyr(["run", &format!("{}/app:v1", registry.host)]).expect(125).says(&["next:"]);
    assert!(ran.took.as_secs() < 20, "{:?}", ran.took);
    home.vyr(["run", "localhost:9/app:v1"]).expect(125).says(&["localhost:9", "connection", "next:"]);
    home.vyr(["run", "--offline", "localhost:9/app:v1"]).expect(127).says(&["--offline", "vyr pull"]);
    nothing_left(&home);
}

#[test]
fn words_that_make_no_sense_are_usage_errors() {
    let home = Home::new();
    for words in [
        &["run"][..],
        &["run", "UPPER CASE"],
        &["run", "localhost:5000/app@sha256:12"],
        &["run", "--memory", "much", "localhost:5000/app"],
        &["run", "--timeout", "5", "localhost:5000/app"],
        &["run", "--allow-net", "nowhere", "localhost:5000/app"],
        &["run", "--no-such-flag", "localhost:5000/app"],
        &["frobnicate"],
        &[
            "push",
            "localhost:5000/app@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "x.wasm",
        ],
        &["trust", "add"],
    ] {
        home.vyr(words).expect(2);
    }
    fs::create_dir_all(home.vyr_home()).unwrap();
    fs::write(home.vyr_home().join("config.toml"), "ofline = true\n").unwrap();
    home.vyr(["artifacts"]).expect(2).says(&["ofline", "config.toml"]);
    fs::remove_file(home.vyr_home().join("config.toml")).unwrap();
    fs::write(home.vyr_home().join("trust.toml"), "version = 1\ndefalt = \"reject\"\n").unwrap();
    let ran = home.vyr(["trust", "ls"]);
    assert!(matches!(ran.status, 2 | 126) && ran.stderr.contains("defalt"), "{ran:?}");
}

#[test]
fn layers_that_lead_out_of_the_image_are_refused() {
    let registry = Registry::start();
    let evil: Vec<(&str, Vec<u8>, &str)> = vec![
        ("dotdot", raw_tar("../evil", b'0', ""), "../evil"),
        ("absolute", raw_tar("/etc/evil", b'0', ""), "/etc/evil"),
        ("hardlink", raw_tar("app.wasm", b'1', "../../etc/passwd"), "hard link"),
        ("symlink", raw_tar("app.wasm", b'2', "/etc/passwd"), "link"),
        ("elf", tar_of(&[("app.wasm", b"\x7fELF and so on")]), "ELF"),
    ];
    for (name, layer, words) in evil {
        let home = Home::new();
        let folder = layout(&home, name, &layer);
        home.tool("oras", ["copy", "--from-oci-layout", &format!("{folder}:v1"), &registry.reference(name, "v1")])
            .expect(0);
        home.vyr(["run", "--allow-unsigned", &registry.reference(name, "v1")]).expect(125).says(&[words]);
    }
}

/// A tar with one entry whose name and link no well-behaved writer would write.
fn raw_tar(name: &str, kind: u8, link: &str) -> Vec<u8> {
    let mut header = [0_u8; 512];
    header[..name.len()].copy_from_slice(name.as_bytes());
    header[100..107].copy_from_slice(b"0000644");
    header[124..135].copy_from_slice(b"00000000000");
    header[136..147].copy_from_slice(b"00000000000");
    header[148..156].copy_from_slice(b"        ");
    header[156] = kind;
    header[157..157 + link.len()].copy_from_slice(link.as_bytes());
    header[257..265].copy_from_slice(b"ustar\x0000");
    let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
    header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    let mut tar = header.to_vec();
    tar.resize(512 * 3, 0);
    tar
}

/// A layout of a compat image with one uncompressed layer.
fn layout(home: &Home, name: &str, layer: &[u8]) -> String {
    let blob = |bytes: &[u8]| {
        let digest = sha256(bytes);
        home.write(&format!("{name}/blobs/sha256/{}", &digest[7..]), bytes);
        (digest, bytes.len())
    };
    let config = json!({"architecture": "wasm", "os": "wasip1", "config": {"Entrypoint": ["/app.wasm"]}, "rootfs": {"type": "layers", "diff_ids": [sha256(layer)]}}).to_string();
    let ((config, config_size), (layer, layer_size)) = (blob(config.as_bytes()), blob(layer));
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": config_size},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": layer, "size": layer_size}],
    })
    .to_string();
    let (digest, size) = blob(manifest.as_bytes());
    home.write(&format!("{name}/oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#);
    let entry = json!({"mediaType": MANIFEST, "digest": digest, "size": size, "annotations": {"org.opencontainers.image.ref.name": "v1"}});
    home.write(&format!("{name}/index.json"), json!({"schemaVersion": 2, "manifests": [entry]}).to_string());
    home.work().join(name).to_str().unwrap().to_owned()
}

/// Runs `script` in a mount namespace of its own; `$V` is vyr.
fn in_mounts(home: &Home, script: &str) -> std::process::Output {
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-eu", "-c", script]);
    command
        .env("V", env!("CARGO_BIN_EXE_vyr"))
        .env("H", home.vyr_home())
        .env("VYR_HOME", home.vyr_home())
        .current_dir(home.work());
    let output = command.output().expect("unshare is part of util-linux");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        !stderr.contains("unshare failed") && !stderr.contains("mount:"),
        "these tests mount: run them as root: {stderr}"
    );
    output
}

#[test]
fn a_full_disk_is_an_error_and_leaves_what_was_there() {
    let (registry, home) = (Registry::start(), Home::new());
    let small = home
        .vyr(["push", &registry.reference("small", "v1"), guest("hello-p1").to_str().unwrap()])
        .expect(0)
        .stdout
        .trim()
        .to_owned();
    let big = home.write("big.bin", (0..12_000_000_u32).flat_map(u32::to_le_bytes).collect::<Vec<_>>());
    home.tool(
        "oras",
        [
            "push",
            &registry.reference("big", "v1"),
            &format!("{}:application/wasm", big.file_name().unwrap().to_str().unwrap()),
        ],
    )
    .expect(0);
    let script = format!(
        "mkdir -p mnt; mount -t tmpfs -o size=24m none mnt; export VYR_HOME=$PWD/mnt; cp -r $H/keys $VYR_HOME/
        $V run {small}; code=0; $V pull {} || code=$?; echo code=$code; $V artifacts --output jsonl; $V run --offline {small}",
        registry.reference("big", "v1")
    );
    let output = in_mounts(&home, &script);
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{stdout}\n{stderr}");
    assert!(stdout.contains("code=125") && stdout.matches("hello from wasm").count() == 2, "{stdout}\n{stderr}");
    assert!(stderr.contains("No space left") || stderr.contains("free"), "{stderr}");
    assert_eq!(stdout.matches("\"digest\"").count(), 1, "only the small one is listed: {stdout}");
}

#[test]
fn a_store_that_can_only_be_read_still_runs_what_it_holds() {
    let (registry, home) = (Registry::start(), Home::new());
    let pushed = home
        .vyr(["push", &registry.reference("app", "v1"), guest("hello-p1").to_str().unwrap()])
        .expect(0)
        .stdout
        .trim()
        .to_owned();
    home.vyr(["run", &pushed]).expect(0);
    let other = registry.reference("other", "v1");
    Home::new().vyr(["push", &other, guest("exit-p1").to_str().unwrap()]).expect(0);
    let script = format!(
        "mount --bind $H $H; mount -o remount,bind,ro $H; $V run --offline {pushed}; code=0; $V pull {other} || code=$?; echo code=$code"
    );
    let output = in_mounts(&home, &script);
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(stdout.contains("hello from wasm") && stdout.contains("code=125"), "{stdout}\n{stderr}");
    assert!(stderr.to_lowercase().contains("read"), "{stderr}");
}
