//! `vyr new`: the folder that it makes is built by the real toolchain, pushed to a real node, and run.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{Home, Node, Output, run};

/// A variable of this process, or a folder of this user's home.
fn folder_of(variable: &str, default: &str) -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").expect("HOME is set"));
    std::env::var_os(variable).map_or_else(|| home().join(default), PathBuf::from)
}

/// A command that finds the built `vyr`, the tools from PyPI and this user's toolchains, in this order.
fn with_tools(home: &Home, program: &Path, first: &[&Path]) -> Command {
    let vyr = Path::new(env!("CARGO_BIN_EXE_vyr")).parent().unwrap().to_owned();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = first.iter().map(PathBuf::from).chain([vyr, vyr_guests::python_tools()]);
    let path = std::env::join_paths(folders.chain(std::env::split_paths(&path))).unwrap();
    let mut command = home.command(program);
    command
        .env("PATH", path)
        .env("CARGO_HOME", folder_of("CARGO_HOME", ".cargo"))
        .env("RUSTUP_HOME", folder_of("RUSTUP_HOME", ".rustup"))
        // zig builds its C library once for a machine.
        .env("ZIG_GLOBAL_CACHE_DIR", folder_of("XDG_CACHE_HOME", ".cache").join("vyr/zig"));
    command
}

#[track_caller]
fn new(home: &Home, language: &str, name: &str) -> Output {
    let mut command = with_tools(home, Path::new(env!("CARGO_BIN_EXE_vyr")), &[]);
    command.args(["new", language, name]);
    run(command, b"")
}

#[track_caller]
fn script(home: &Home, folder: &str, script: &str, arguments: &[&str]) -> Output {
    let mut command = with_tools(home, &home.work().join(folder).join(script), &[]);
    command.args(arguments);
    run(command, b"")
}

/// Builds, pushes and runs the workload in the folder `name`, as its README says.
fn build_push_run(home: &Home, name: &str) {
    script(home, name, "build.sh", &[]).expect(0);
    let node = Node::start(home, &[]);
    let reference = format!("{}/{name}:v1", node.host());
    let pushed = script(home, name, "push.sh", &[&reference]).expect(0).stdout;
    assert!(pushed.starts_with(&format!("{reference}@sha256:")), "{pushed}");

    let run_with = |more: &[&str], stdin: &str| {
        let mut command = home.vyr_command(["run"]);
        command.args(more);
        run(command, stdin.as_bytes())
    };
    let reference = pushed.trim();
    assert_eq!(run_with(&[reference, "--", "1", "2", "3.5"], "").expect(0).stdout, "3 numbers, sum 6.5\n");
    assert_eq!(run_with(&[reference], "1\n2\n-4\n").expect(0).stdout, "3 numbers, sum -1\n");
    assert_eq!(run_with(&[reference], "").expect(0).stdout, "0 numbers, sum 0\n");
    for (arguments, stdin) in [(&[reference, "--", "1", "two"][..], ""), (&[reference], "1\ntwo\n")] {
        let bad = run_with(arguments, stdin).expect(1).says(&["error: ", "two"]);
        assert_eq!(bad.stdout, "");
    }
    home.vyr(["state", "create", "totals"]).expect(0);
    let with_state = |number: &str| run_with(&["--state", "totals", reference, "--", number], "").expect(0).stdout;
    assert_eq!(with_state("2.5"), "1 numbers, sum 2.5\nsum of all runs 2.5\n");
    assert_eq!(with_state("4"), "1 numbers, sum 4\nsum of all runs 6.5\n");
    // And as a task.
    let task = home.vyr(["submit", "--logs", reference, "--", "1", "2", "3.5"]).expect(0);
    assert_eq!(task.stdout, "3 numbers, sum 6.5\n");
}

/// What `file` calls it: the layer of the Wasm's version.
fn is_component(wasm: &Path) -> bool {
    fs::read(wasm).unwrap()[6] == 1
}

#[test]
fn a_workload_in_rust_is_built_pushed_and_run() {
    let home = Home::new();
    let made = new(&home, "rust", "my-sum").expect(0);
    assert_eq!(made.stderr, "");
    assert!(
        made.stdout.starts_with("made my-sum, built by cargo with wasm32-wasip2; next:\n  cd my-sum\n"),
        "{made:?}"
    );
    build_push_run(&home, "my-sum");
    assert!(is_component(&home.work().join("my-sum/my-sum.wasm")));
    let ignored = home.work().join("my-sum");
    let mut status = home.command("git");
    status.args(["-c", "init.defaultBranch=main", "init", "--quiet", "."]).current_dir(&ignored);
    run(status, b"").expect(0);
    let mut status = home.command("git");
    status.args(["status", "--porcelain", "--untracked-files=all"]).current_dir(&ignored);
    let untracked = run(status, b"").expect(0).stdout;
    let expected = [".gitignore", "Cargo.lock", "Cargo.toml", "README.md", "build.sh", "push.sh", "src/main.rs"];
    assert_eq!(untracked, expected.map(|file| format!("?? {file}\n")).concat(), "nothing that is built");
}

#[test]
fn a_workload_in_c_is_built_pushed_and_run() {
    let home = Home::new();
    let made = new(&home, "c", "sum_c").expect(0);
    assert_eq!(made.stderr, "");
    assert!(made.stdout.starts_with("made sum_c, built by "), "{made:?}");
    build_push_run(&home, "sum_c");
    assert!(!is_component(&home.work().join("sum_c/sum_c.wasm")));
}

#[test]
fn the_sdk_that_a_variable_names_is_taken_first() {
    let home = Home::new();
    // wasi-sdk comes from nowhere that tests can reach: its form, with zig for its clang.
    let script = "#!/bin/sh\n[ \"$1\" = \"--sysroot=$WASI_SDK_PATH/share/wasi-sysroot\" ] || exit 3\nshift\nexec python3 -m ziglang cc -target wasm32-wasi \"$@\"\n";
    let clang = home.write("the sdk/bin/clang", script);
    fs::set_permissions(&clang, fs::Permissions::from_mode(0o755)).unwrap();
    let with_sdk = |program: &Path, words: &[&str]| {
        let mut command = with_tools(&home, program, &[]);
        command.args(words).env("WASI_SDK_PATH", home.work().join("the sdk"));
        run(command, b"").expect(0)
    };
    let made = with_sdk(Path::new(env!("CARGO_BIN_EXE_vyr")), &["new", "c", "sum"]);
    assert!(made.stdout.starts_with("made sum, built by wasi-sdk; next:\n"), "{made:?}");
    with_sdk(&home.work().join("sum/build.sh"), &[]);
    assert!(!is_component(&home.work().join("sum/sum.wasm")));
}

#[test]
fn a_workload_in_python_is_built_pushed_and_run() {
    let home = Home::new();
    let made = new(&home, "python", "sum").expect(0);
    assert_eq!(made.stderr, "");
    assert!(made.stdout.starts_with("made sum, built by componentize-py; next:\n"), "{made:?}");
    build_push_run(&home, "sum");
    assert!(is_component(&home.work().join("sum/sum.wasm")));
}

/// A `rustc` that knows only the targets whose names match `pattern`: a toolchain can't be taken from under other tests.
fn rustc_with_only(home: &Home, pattern: &str) -> PathBuf {
    let rustc =
        home.write("bin/rustc", format!("#!/bin/sh\ncase \"$4\" in {pattern}) echo / ;; *) echo /nowhere ;; esac\n"));
    fs::set_permissions(&rustc, fs::Permissions::from_mode(0o755)).unwrap();
    rustc.parent().unwrap().to_owned()
}

#[test]
fn rust_without_the_target_of_components_makes_a_module() {
    let home = Home::new();
    let bin = rustc_with_only(&home, "wasm32-wasip1");
    let mut command = with_tools(&home, Path::new(env!("CARGO_BIN_EXE_vyr")), &[&bin]);
    command.args(["new", "rust", "sum"]);
    let made = run(command, b"").expect(0);
    assert!(made.stdout.starts_with("made sum, built by cargo with wasm32-wasip1; next:\n"), "{made:?}");
    build_push_run(&home, "sum");
    assert!(!is_component(&home.work().join("sum/sum.wasm")));
}

#[test]
fn what_is_missing_is_said_with_the_command_that_installs_it() {
    let home = Home::new();
    let bin = rustc_with_only(&home, "nothing");
    let mut command = with_tools(&home, Path::new(env!("CARGO_BIN_EXE_vyr")), &[&bin]);
    command.args(["new", "rust", "no-target"]);
    let made = run(command, b"").expect(0).says(&["note: ", "rustup target add wasm32-wasip2\n"]);
    assert!(made.stdout.contains("\n  cd no-target\n  rustup target add wasm32-wasip2\n  ./build.sh\n"), "{made:?}");

    let nowhere = home.work().join("empty");
    fs::create_dir(&nowhere).unwrap();
    for (language, install) in [
        ("rust", "https://sh.rustup.rs | sh -s -- --target wasm32-wasip2\n"),
        ("c", "python3 -m venv .venv && .venv/bin/pip install ziglang=="),
        ("python", "python3 -m venv .venv && .venv/bin/pip install componentize-py=="),
    ] {
        let with_nothing = |words: &[&str]| {
            let mut command = home.vyr_command(["new", language]);
            command.args(words).env("PATH", &nowhere);
            run(command, b"").expect(0)
        };
        with_nothing(&[language]).says(&["note: ", " is not on this machine (looked for ", install]);
        assert!(home.work().join(language).join("build.sh").is_file(), "{language} is there all the same");

        let name = format!("{language}-json");
        let made = with_nothing(&[&name, "--output", "json"]);
        assert_eq!(made.stderr, "");
        let made = made.json();
        assert_eq!((&made["folder"], &made["toolchain"]["found"]), (&name.clone().into(), &false.into()));
        assert!(made["toolchain"]["install"].as_str().unwrap().contains(install.trim()), "{made}");
        for file in made["files"].as_array().unwrap() {
            assert!(home.work().join(&name).join(file.as_str().unwrap()).is_file(), "{file}");
        }
        assert_eq!(made["next"][0], format!("cd {name}"));
        assert_eq!(made["next"][1], made["toolchain"]["install"]);
    }
}

#[test]
fn a_name_that_is_taken_or_none_is_refused_and_nothing_is_written() {
    let home = Home::new();
    home.write("taken/file", "mine");
    home.write("a-file", "mine");
    std::os::unix::fs::symlink("nowhere", home.work().join("a-link")).unwrap();
    let seen = || {
        let mut names: Vec<_> = fs::read_dir(home.work()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let before = seen();
    for taken in ["taken", "a-file", "a-link"] {
        home.vyr(["new", "c", taken]).expect(2).says(&[taken, "is there already", "next: give another name"]);
    }
    for bad in ["Bad", "a b", "9", "x/../Y", "."] {
        home.vyr(["new", "c", bad]).expect(2).says(&["can't name a workload", "next: write small letters"]);
    }
    home.vyr(["new", "c", "none/here"]).expect(2).says(&["there is no folder none"]);
    home.vyr(["new", "cobol", "x"]).expect(2).says(&["rust", "python"]);
    home.vyr(["new", "c", "/proc/x"]).expect(125).says(&["could not make the workload /proc/x", "can't be written"]);
    assert_eq!(seen(), before);
    assert_eq!(fs::read_to_string(home.work().join("taken/file")).unwrap(), "mine");
}
