//! `vyr doctor` says what is damaged in the data folder and changes nothing; `--repair` mends what it can, from the registry
//! where that has it, and says what is left with what to do.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::Value;
use vyr_proto::v0::TaskStatus;

use crate::support::{Home, Node, Registry, flip_a_bit, pushed, run, spec, tool};

/// A signed artifact in the store: its reference with the digest, and the files of its manifest and of its blobs.
fn pulled(registry: &Registry, home: &Home, name: &str) -> (String, Vec<PathBuf>) {
    let reference = pushed(home, registry, name);
    home.vyr(["pull", &reference]).expect(0);
    let digest = reference.rsplit_once('@').unwrap().1;
    let manifest = home.store().join("blobs").join(digest.replace(':', "/"));
    let parsed: Value = serde_json::from_slice(&fs::read(&manifest).unwrap()).unwrap();
    let blobs = [&parsed["config"], &parsed["layers"][0]];
    let blobs = blobs.map(|blob| home.store().join("blobs").join(blob["digest"].as_str().unwrap().replace(':', "/")));
    (reference, std::iter::once(manifest).chain(blobs).collect())
}

/// Everything below a folder with its bytes, except what SQLite keeps of whoever has a database open.
fn all_of(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let (mut found, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
            match entry.path() {
                path if path.is_dir() => folders.push(path),
                path if path.extension().is_some_and(|e| e == "sqlite-shm" || e == "sqlite-wal") => {}
                path => found.push((path.clone(), fs::read(path).unwrap())),
            }
        }
    }
    found.sort();
    found
}

fn check<'a>(checks: &'a Value, name: &str) -> &'a Value {
    checks.as_array().unwrap().iter().find(|c| c["name"] == name).unwrap_or_else(|| panic!("{name}: {checks}"))
}

fn doctor(home: &Home, code: i32) -> Value {
    home.vyr(["doctor", "--output", "json"]).expect(code).json()
}

fn repair(home: &Home, more: &[&str], code: i32) -> Value {
    let words = ["doctor", "--repair", "--output", "json"].iter().chain(more);
    home.vyr(words).expect(code).json()
}

/// Moves a database's log into it, as another program would.
fn checkpoint(home: &Home, database: &Path) {
    let code =
        "import sqlite3,sys; print(sqlite3.connect(sys.argv[1]).execute('PRAGMA wal_checkpoint(TRUNCATE)').fetchall())";
    let mut python = home.command("python3");
    python.args(["-c", code]).arg(database);
    let told = run(python, b"").expect(0).stdout;
    assert!(told.starts_with("[(0, "), "somebody is in the way: {told}");
}

/// One page of a database, so many hundredths into it, is something else.
fn damage(home: &Home, database: &str, hundredths: u64) -> PathBuf {
    let database = home.vyr_home().join("db").join(database);
    checkpoint(home, &database);
    let pages = fs::metadata(&database).unwrap().len() / 4096;
    let page = 1 + (pages - 2) * hundredths / 100;
    let file = fs::OpenOptions::new().write(true).open(&database).unwrap();
    file.write_all_at(&[0x5a; 4096], page * 4096).unwrap();
    database
}

#[test]
fn what_is_damaged_or_missing_in_the_store_is_fetched_again() {
    let (registry, home) = (Registry::start(), Home::new());
    let (reference, files) = pulled(&registry, &home, "hello-p1");
    assert_eq!(check(&doctor(&home, 0), "content")["state"], "ok");
    let before: Vec<Vec<u8>> = files.iter().map(|file| fs::read(file).unwrap()).collect();
    // The manifest, and so what it names; a blob that is gone; one that is another.
    flip_a_bit(&files[0]);
    fs::remove_file(&files[1]).unwrap();
    flip_a_bit(&files[2]);
    let state = all_of(&home.store());

    let checks = doctor(&home, 125);
    let content = check(&checks, "content");
    assert_eq!(content["state"], "fail", "{content}");
    assert!(content["next"].as_str().unwrap().contains("vyr doctor --repair"), "{content}");
    let dry = repair(&home, &["--dry-run"], 125);
    let wrong = dry["content"]["wrong"].as_array().unwrap();
    assert_eq!(wrong.len(), 3, "{dry}");
    assert!(wrong.iter().all(|blob| blob["outcome"] == "would_repair"), "{dry}");
    assert!(all_of(&home.store()) == state, "to look changes nothing");

    let done = repair(&home, &[], 0);
    assert_eq!(done["broken"], 0, "{done}");
    for blob in done["content"]["wrong"].as_array().unwrap() {
        assert_eq!(blob["outcome"], "repaired", "{done}");
        assert_eq!(blob["from"], format!("{}/hello", registry.host()), "{done}");
        assert!(!blob["of"].as_array().unwrap().is_empty(), "{done}");
    }
    for (file, before) in files.iter().zip(before) {
        assert!(fs::read(file).unwrap() == before, "{}", file.display());
    }
    doctor(&home, 0);
    // Under the trust policy, as ever.
    assert_eq!(home.vyr(["run", "--offline", &reference]).expect(0).stdout, "hello from wasm\n");
}

#[test]
fn what_no_registry_gives_is_put_aside_and_comes_back_by_the_command_that_is_said() {
    let (mut registry, home) = (Registry::start(), Home::new());
    let (reference, files) = pulled(&registry, &home, "hello-p1");
    home.vyr(["export", &reference, "layout"]).expect(0);
    flip_a_bit(&files[0]);
    flip_a_bit(&files[2]);
    let damaged = fs::read(&files[2]).unwrap();
    registry.stop();
    let left = repair(&home, &[], 125);
    assert_eq!(left["broken"], 2, "{left}");
    for blob in left["content"]["wrong"].as_array().unwrap() {
        assert_eq!(blob["outcome"], "left", "{left}");
        assert!(blob["why"].as_str().unwrap().contains(&registry.host()), "{left}");
        assert!(blob["next"].as_str().unwrap().contains("`vyr pull "), "{left}");
        assert!(blob["next"].as_str().unwrap().contains("vyr import"), "{left}");
        assert!(Path::new(blob["aside"].as_str().unwrap()).is_file(), "{left}");
    }
    let aside = left["content"]["wrong"].as_array().unwrap().iter().map(|b| b["aside"].as_str().unwrap());
    assert!(aside.map(|path| fs::read(path).unwrap()).any(|bytes| bytes == damaged), "not a byte of it is lost");
    assert_ne!(home.vyr(["run", "--offline", &reference]).status, 0);
    home.vyr(["import", "layout"]).expect(0);
    doctor(&home, 0);
    assert_eq!(home.vyr(["run", "--offline", &reference]).expect(0).stdout, "hello from wasm\n");
    // Not the network, and nothing wrong: nothing to do.
    assert_eq!(repair(&home, &["--offline"], 0)["content"]["wrong"].as_array().unwrap().len(), 0);
}

#[test]
fn the_store_s_database_is_made_again_and_knows_where_things_are_from() {
    let (registry, home) = (Registry::start(), Home::new());
    for hundredths in [Some(30), Some(60), Some(90), None] {
        let (reference, files) = pulled(&registry, &home, "hello-p1");
        let artifacts = home.vyr(["artifacts", "--all", "--output", "json"]).expect(0).json();
        if let Some(hundredths) = hundredths {
            damage(&home, "vyr.sqlite", hundredths);
        } else {
            let database = home.vyr_home().join("db/vyr.sqlite");
            checkpoint(&home, &database);
            let file = fs::OpenOptions::new().write(true).open(&database).unwrap();
            file.set_len(fs::metadata(&database).unwrap().len() / 2).unwrap();
        }
        let checks = doctor(&home, 125);
        assert_eq!(check(&checks, "databases")["state"], "fail", "{checks}");
        let done = repair(&home, &[], 0);
        let found = done["databases"].as_array().unwrap().iter().find(|d| d["name"] == "vyr.sqlite").unwrap();
        assert_eq!(found["outcome"], "repaired", "{done}");
        assert!(Path::new(found["aside"].as_str().unwrap()).join("vyr.sqlite").is_file(), "{done}");
        doctor(&home, 0);
        let again = home.vyr(["artifacts", "--all", "--output", "json"]).expect(0).json();
        let names = |list: &Value| -> Vec<String> {
            let mut names: Vec<String> =
                list.as_array().unwrap().iter().map(|a| format!("{} {}", a["digest"], a["tags"])).collect();
            names.sort();
            names
        };
        assert_eq!(names(&again), names(&artifacts), "{hundredths:?}");
        home.vyr(["run", "--offline", &reference]).expect(0);
        flip_a_bit(&files[2]);
        assert_eq!(repair(&home, &[], 0)["content"]["wrong"][0]["outcome"], "repaired", "{hundredths:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_can_be_read_of_the_tasks_is_carried_over_once_the_node_has_gone() {
    const TASKS: usize = 400;
    let (registry, home) = (Registry::start(), Home::new());
    let hello = pushed(&home, &registry, "hello-p1");
    let node = Node::start(&home, &[]);
    let mut client = node.connect().await;
    let mut ended = Vec::new();
    for number in 0..TASKS {
        let task = client.run(spec(&hello, &[&format!("task {number}")])).await;
        assert_eq!(task.status(), TaskStatus::Succeeded);
        ended.push(task.id);
    }
    node.terminate();
    assert_eq!(node.wait(), 0);
    let database = damage(&home, "tasks.sqlite", 50);
    let before = fs::read(&database).unwrap();
    assert_eq!(check(&doctor(&home, 125), "databases")["state"], "fail");
    assert!(fs::read(&database).unwrap() == before, "to look changes nothing");

    // Somebody has it open: here another process by SQLite alone, as a reader of one's own would.
    let hold = "import sqlite3,sys; c = sqlite3.connect(sys.argv[1]); c.execute('SELECT count(*) FROM sqlite_master').fetchall(); \
                print('open', flush=True); sys.stdin.read()";
    let mut holder = home.command("python3");
    let mut holder =
        holder.args(["-c", hold]).arg(&database).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(holder.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "open\n");
    let left = repair(&home, &[], 125);
    let tasks = &left["databases"][0];
    assert_eq!((&tasks["outcome"], tasks["name"].as_str()), (&"left".into(), Some("tasks.sqlite")), "{left}");
    assert!(tasks["why"].as_str().unwrap().contains("another process has"), "{left}");
    drop(holder.stdin.take());
    holder.wait().unwrap();
    assert!(fs::read(&database).unwrap() == before);

    let done = repair(&home, &[], 0);
    let tasks = &done["databases"][0];
    assert_eq!(tasks["outcome"], "repaired", "{done}");
    let figures = |table: usize| {
        let table = &tasks["carried"][table];
        let figure = |name: &str| usize::try_from(table[name].as_u64().unwrap()).unwrap();
        (figure("rows"), figure("lost"))
    };
    let (rows, lost) = figures(0);
    assert_eq!(rows + lost, TASKS, "{done}");
    assert!(rows > TASKS / 2, "{done}");
    let (receipts, lost_receipts) = figures(1);
    assert!(receipts <= rows && receipts + lost_receipts >= TASKS && lost + lost_receipts > 0, "{done}");
    let aside = PathBuf::from(tasks["aside"].as_str().unwrap());
    assert!(fs::read(aside.join("tasks.sqlite")).unwrap() == before, "the damaged one is kept as it was");
    let node = Node::start(&home, &[]);
    let mut client = node.connect().await;
    let mut there = 0;
    for id in &ended {
        let request = vyr_proto::v0::GetTaskRequest { id: id.clone(), wait: None };
        there += usize::from(client.0.get_task(request).await.is_ok());
    }
    assert_eq!(there, rows, "what is said to be there is there");
    assert_eq!(client.run(spec(&hello, &["again"])).await.status(), TaskStatus::Succeeded);

    // While it serves: the store is repaired, its databases are its own.
    let (_, files) = pulled(&registry, &home, "exit-p1");
    flip_a_bit(&files[2]);
    damage(&home, "state.sqlite", 50);
    let left = repair(&home, &[], 125);
    assert_eq!(left["content"]["wrong"][0]["outcome"], "repaired", "{left}");
    let state = &left["databases"][1];
    assert_eq!(state["outcome"], "left", "{left}");
    assert!(state["why"].as_str().unwrap().contains("is served by"), "{left}");
    node.kill();
    assert_eq!(repair(&home, &[], 0)["databases"][1]["outcome"], "repaired");
    let node = Node::start(&home, &[]);
    node.connect().await.get(&ended[0]).await;
}

#[test]
fn states_keep_their_names_and_compiled_code_is_made_anew() {
    let (registry, home) = (Registry::start(), Home::new());
    let (reference, _) = pulled(&registry, &home, "hello-p1");
    for number in 0..60 {
        home.vyr(["state", "create", &format!("readings-{number}")]).expect(0);
    }
    damage(&home, "state.sqlite", 70);
    let code = |home: &Home| -> Vec<PathBuf> {
        let found = all_of(&home.vyr_home().join("cache")).into_iter();
        found.map(|(path, _)| path).filter(|path| path.extension().is_some_and(|e| e == "cwasm")).collect()
    };
    home.vyr(["run", "--offline", &reference]).expect(0);
    for path in code(&home) {
        // As a disk does: the file's own look stays.
        let times = fs::metadata(&path).unwrap().modified().unwrap();
        let file = fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, 5000).unwrap();
        file.write_all_at(&[byte[0] ^ 1], 5000).unwrap();
        file.set_modified(times).unwrap();
    }
    let checks = doctor(&home, 125);
    for name in ["databases", "compiled code"] {
        assert_eq!(check(&checks, name)["state"], "fail", "{checks}");
    }
    // To look whether things are there takes no reading of them.
    let quick = home.vyr(["doctor", "--quick", "--output", "json"]).json();
    assert_eq!(check(&quick, "compiled code")["state"], "note", "{quick}");
    let told = home.vyr(["doctor", "--repair"]).expect(0).stdout;
    for words in ["state.sqlite: ", "rows carried over", "put aside: ", "not what was sealed; dropped", "0 broken"] {
        assert!(told.contains(words), "{words}: {told}");
    }
    assert!(code(&home).is_empty());
    doctor(&home, 0);
    home.vyr(["run", "--offline", &reference]).expect(0);
    assert_eq!(code(&home).len(), 1);
    let states = home.vyr(["state", "ls", "--output", "json"]).expect(0).json();
    let carried = format!("state: {} rows carried over", states.as_array().unwrap().len());
    assert!(told.contains(&carried), "{carried}: {told}");
    home.vyr(["state", "create", "one-more"]).expect(0);
}

#[test]
fn a_repair_that_is_killed_is_gone_on_with() {
    let (registry, home) = (Registry::start(), Home::new());
    let (reference, files) = pulled(&registry, &home, "hello-p1");
    // At each of its calls that change something: a kill there is what a crash would be.
    for call in ["openat", "rename", "fsync", "unlink", "linkat"] {
        for nth in [1, 3, 8] {
            fs::remove_file(&files[1]).ok();
            flip_a_bit(&files[2]);
            damage(&home, "vyr.sqlite", 50);
            let mut command = home.command(tool("strace"));
            let inject = format!("inject={call}:signal=KILL:when={}", if call == "openat" { nth * 40 } else { nth });
            let trace = format!("trace={call}");
            command.args(["-f", "-qq", "-o", "/dev/null", "-e", &trace, "-e", &inject, env!("CARGO_BIN_EXE_vyr")]);
            command.args(["doctor", "--repair"]).stdout(Stdio::null()).stderr(Stdio::null());
            command.status().unwrap();
            let done = repair(&home, &[], 0);
            assert_eq!(done["broken"], 0, "{call} {nth}: {done}");
            doctor(&home, 0);
            assert_eq!(home.vyr(["run", "--offline", &reference]).expect(0).stdout, "hello from wasm\n");
        }
    }
}
