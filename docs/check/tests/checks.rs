//! The checks, checked: each page here that isn't what happens has to fail.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "test code: a panic is how it reports")]

use std::path::Path;
use std::process::{Command, Output};

/// Runs a page of its own with the given options.
fn check(page: &Path, options: &[&str]) -> (bool, String) {
    // Such pages call no vyr.
    let mut command = Command::new(env!("CARGO_BIN_EXE_docs-check"));
    let Output { status, stdout, stderr } =
        command.args(["run", "--vyr", "/bin/true"]).args(options).arg(page).output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    (status.success(), said)
}

fn page(text: &str, options: &[&str]) -> (bool, String, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("page.md");
    std::fs::write(&path, text).unwrap();
    let (good, said) = check(&path, options);
    (good, said, std::fs::read_to_string(&path).unwrap())
}

fn console(lines: &str) -> (bool, String) {
    let (good, said, _) = page(&format!("# Page\n\n```console\n{lines}```\n"), &[]);
    (good, said)
}

#[test]
fn a_page_that_says_what_happens_passes_and_is_counted() {
    let text = "# Page\n\n<!-- run: echo here > file -->\n\n```console\n$ cat file\nhere\n$ x=5\n$ cd /\n```\n\n```console\n\
                $ echo $x in $PWD; false\n5 in /\n(exit code 1)\n```\n\n```console norun=\"needs a moon\"\n$ fly\n```\n";
    let (good, said, after) = page(text, &["--write"]);
    assert!(good, "{said}");
    assert_eq!(after, text, "a page that is right isn't touched");
    let row: Vec<&str> = said.lines().rfind(|line| line.contains("page.md")).unwrap().split_whitespace().collect();
    assert_eq!(row[1..5], ["2", "4", "1", "1"], "{said}");
    assert!(said.contains("page.md: needs a moon"), "{said}");
}

#[test]
fn a_wrong_line_is_named_with_its_place() {
    let (good, said) = console("$ echo one; echo two\none\nthree\n");
    assert!(!good);
    for words in ["page.md:4: $ echo one; echo two", "-three", "+two", "DIFFERENT"] {
        assert!(said.replace(" ", "").contains(&words.replace(' ', "")), "{words} is not in: {said}");
    }
}

#[test]
fn a_line_too_many_or_too_few_is_a_difference() {
    assert!(!console("$ echo one\n").0);
    assert!(!console("$ true\none\n").0);
    assert!(!console("$ printf 'a\\nb\\n'\na\n").0);
    assert!(console("$ printf 'a\\nb\\nc\\n'\n…\nc\n").0);
}

#[test]
fn the_exit_code_has_to_be_the_one_written() {
    let (good, said) = console("$ exit_with() { return $1; }\n$ exit_with 126\n");
    assert!(!good && said.contains("exit code 126, not 0"), "{said}");
    let (good, said) = console("$ true\n(exit code 126)\n");
    assert!(!good && said.contains("exit code 0, not 126"), "{said}");
}

#[test]
fn what_is_behind_the_scenes_has_to_succeed() {
    let (good, said, _) = page("<!-- run: echo trouble; false -->\n", &[]);
    assert!(!good && said.contains("trouble") && said.contains("page.md:1"), "{said}");
}

#[test]
fn a_background_job_is_waited_for_and_ended() {
    let job = "sh -c 'sleep 0.3; echo ready; exec sleep 98765'";
    let (good, said) = console(&format!("$ {job} &\nready\n$ echo next\nnext\n"));
    assert!(good, "{said}");
    for entry in std::fs::read_dir("/proc").unwrap() {
        let line = std::fs::read(entry.unwrap().path().join("cmdline")).unwrap_or_default();
        assert!(!line.starts_with(b"sleep\x0098765"), "the job is still there");
    }
    let (good, _, _) = page("```console\n$ sh -c 'echo other; exec sleep 98766' &\nready\n```\n", &["--timeout", "1"]);
    assert!(!good, "what it prints counts");
}

#[test]
fn ctrl_c_ends_what_would_go_on() {
    let (good, said) =
        console("$ sh -c 'echo begun; exec sleep 98767'\nbegun\n^C\n(exit code 130)\n$ echo next\nnext\n");
    assert!(good, "{said}");
    let (good, said) = console("$ echo short\nshort\n^C\n(exit code 130)\n");
    assert!(!good && said.contains("exit code 0, not 130"), "{said}");
}

#[test]
fn what_takes_too_long_fails_with_what_it_printed() {
    let (good, said, _) = page("```console\n$ echo begun; sleep 60\nbegun\n```\n", &["--timeout", "5"]);
    assert!(!good && said.contains("still ran after 5 s") && said.contains("begun"), "{said}");
}

#[test]
fn there_is_a_loopback_device_and_no_other_network() {
    let (good, said) = console(
        "$ busybox nc -l -p 7070 </dev/null &\n$ until busybox nc -w 1 localhost 7070 </dev/null 2>/dev/null; do :; done\n\
         $ curl -sS http://192.0.2.1/\ncurl: (7) …\n(exit code 7)\n",
    );
    assert!(good, "{said}");
}

#[test]
fn written_anew_a_page_passes() {
    let text = "# Page\n\n```console\n$ echo one; echo two; false\none\nold\n$ echo end\n```\n\nWords.\n";
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("page.md");
    std::fs::write(&path, text).unwrap();
    assert!(!check(&path, &["--write"]).0);
    let now = std::fs::read_to_string(&path).unwrap();
    assert_eq!(
        now,
        "# Page\n\n```console\n$ echo one; echo two; false\none\ntwo\n(exit code 1)\n$ echo end\nend\n```\n\nWords.\n"
    );
    assert!(check(&path, &[]).0);
}

#[test]
fn the_reference_of_the_api_is_what_the_protocol_files_say() {
    let output = Command::new(env!("CARGO_BIN_EXE_docs-check")).arg("api").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn dead_links_are_found() {
    let folder = tempfile::tempdir().unwrap();
    let git = Command::new("git").args(["init", "--quiet"]).arg(folder.path()).status().unwrap();
    assert!(git.success());
    std::fs::write(folder.path().join("a.md"), "# One\n\n[b](b.md#two) [own](#one) [web](https://example.org/)\n")
        .unwrap();
    std::fs::write(folder.path().join("c.rs"), "fn one() {}\nfn two() {}\n").unwrap();
    let part = "```rust from=\"c.rs\"\nfn two() {}\n```\n";
    std::fs::write(folder.path().join("b.md"), format!("## Two\n\n[a](./a.md)\n\n{part}")).unwrap();
    let links = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_docs-check"));
        let output = command.args(["links", "--root"]).arg(folder.path()).output().unwrap();
        (output.status.success(), String::from_utf8(output.stdout).unwrap())
    };
    let (good, said) = links();
    assert!(good && said.contains("2 files, 3 links inside, 1 parts of other files, 1 other"), "{said}");
    let part = "```rust from=\"c.rs\"\nfn three() {}\n```\n\n```rust from=\"d.rs\"\nfn two() {}\n```\n";
    let text = format!("[a](c.md)\n\n[a](a.md#three) <img src=\"d.png\"> [x](http://[/)\n\n{part}");
    std::fs::write(folder.path().join("b.md"), text).unwrap();
    let (good, said) = links();
    assert!(!good);
    for dead in [
        "a.md:3: b.md#two",
        "b.md:1: c.md",
        "b.md:3: a.md#three",
        "b.md:3: d.png",
        "b.md:3: http://[",
        "b.md:5: from c.rs: it",
        "b.md:9: from d.rs",
    ] {
        assert!(said.contains(dead), "{dead} is not in: {said}");
    }
}
