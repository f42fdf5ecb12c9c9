//! The same image unpacked by umoci and here gives the same tree.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::Command;

use super::*;

/// The program, or a failure that says what installs it.
fn umoci() -> PathBuf {
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let out = Command::new(project.join("envs/tools")).args(["path", "umoci"]).output().expect("envs/tools");
    assert!(out.status.success(), "umoci is missing: run envs/tools");
    PathBuf::from(String::from_utf8(out.stdout).expect("a path").trim())
}

/// A line for everything in a tree: type, mode, owner, size, link target, device, content; the time of what isn't a folder.
const LIST: &str = r#"
find . ! -type d -printf '%p %y %m %U %G %s %T@ %l\n' | sort
find . -type d -printf '%p %y %m %U %G\n' | sort
find . -type f -print0 | sort -z | xargs -0r sha256sum
find . \( -type b -o -type c \) -print0 | sort -z | xargs -0r stat -c '%n %t:%T'
"#;

fn list(dir: &Path) -> String {
    shell(&format!("cd {} && {{ {LIST} }}", dir.display()))
}

/// The same through overlayfs.
fn list_mounted(layers: &[PathBuf]) -> String {
    let lower: Vec<_> = layers.iter().rev().map(|layer| layer.display().to_string()).collect();
    let mount = match &lower[..] {
        [one] => format!("mount --bind {one} /mnt"),
        _ => format!("mount -t overlay overlay -o lowerdir={} /mnt", lower.join(":")),
    };
    shell(&format!("unshare -m sh -c \"$(cat <<'END'\nset -e; {mount}; cd /mnt\n{LIST}\nEND\n)\""))
}

fn shell(script: &str) -> String {
    let out = Command::new("sh").args(["-c", script]).env("LC_ALL", "C").output().expect("a shell");
    assert!(out.status.success(), "{script}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// xorshift: the same numbers in each run.
struct Chance(u64);

impl Chance {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).expect("small") % n
    }

    fn of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Is {
    Folder,
    File,
    Link,
}

/// What the image has so far, by path, so that what is made next makes sense.
#[derive(Default)]
struct Model(BTreeMap<String, Is>);

impl Model {
    fn all(&self, kind: Is) -> Vec<String> {
        self.0.iter().filter(|(_, is)| **is == kind).map(|(path, _)| path.clone()).collect()
    }

    fn remove(&mut self, path: &str) {
        let inside = format!("{path}/");
        self.0.retain(|at, _| at != path && !at.starts_with(&inside));
    }

    fn put(&mut self, path: &str, kind: Is) {
        if kind != Is::Folder || self.0.get(path) != Some(&Is::Folder) {
            self.remove(path);
        }
        for (at, _) in path.match_indices('/') {
            self.0.insert(path[..at].into(), Is::Folder);
        }
        self.0.insert(path.into(), kind);
    }
}

/// With `wild`, whiteouts also of what the layer itself has made.
fn random_layer(chance: &mut Chance, model: &mut Model, wild: bool) -> Vec<u8> {
    let mut tar = Tar::default();
    let names = ["a", "b", "c", "d", "e", "f"];
    let below = model.0.clone();
    let mut own: Vec<String> = Vec::new();
    for n in 0..25 {
        let mut folders = model.all(Is::Folder);
        folders.push(String::new());
        let folder = chance.of(&folders).clone();
        let name = *chance.of(&names);
        let path = if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") };
        let path = if chance.below(4) == 0 { format!("{path}/g") } else { path };
        // What is implied must not be a file or a link by now.
        let implied =
            path.match_indices('/').all(|(at, _)| model.0.get(&path[..at]).is_none_or(|is| *is == Is::Folder));
        if !implied || path.matches('/').count() > 4 {
            continue;
        }
        let mode = *chance.of(&[0o644, 0o755, 0o4755, 0o2711, 0o600, 0o000]);
        let owner = *chance.of(&[(0, 0), (1000, 100), (0, 7)]);
        let mut made = None;
        match chance.below(12) {
            0..=3 => {
                let data = format!("{path} {n} {}", "x".repeat(chance.below(3000)));
                let (name, data) = (path.as_bytes(), data.as_bytes());
                tar = tar.put(Entry { name, mode, owner, mtime: 1_500_000_000 + n, data, ..Entry::default() });
                made = Some(Is::File);
            }
            4..=6 => {
                let name = format!("{path}/");
                // In a folder with the bit, folders that umoci makes unasked get it too.
                let mode = mode & !0o2000;
                tar = tar.put(Entry { kind: b'5', name: name.as_bytes(), mode, owner, ..Entry::default() });
                made = Some(Is::Folder);
            }
            7 | 8 => {
                let target = chance.of(&["a", "/b/c", "../d", "nowhere", "/", "./e"]);
                tar = tar.symlink(&path, target);
                made = Some(Is::Link);
            }
            9 => {
                let files = model.all(Is::File);
                if !files.is_empty() {
                    let target = chance.of(&files);
                    if *target != path && !target.starts_with(&format!("{path}/")) {
                        tar = tar.link(&path, target);
                        made = Some(Is::File);
                    }
                }
            }
            10 => {
                let there: Vec<_> = below.keys().collect();
                if !there.is_empty() {
                    let gone = (*chance.of(&there)).clone();
                    // Not what this layer has made something of, or in: tools differ there.
                    let clear = |p: &String| !p.starts_with(&format!("{gone}/")) && *p != gone;
                    if wild || own.iter().all(clear) && model.0.contains_key(&gone) {
                        let (at, name) = gone.rsplit_once('/').map_or(("", &gone[..]), |(at, name)| (at, name));
                        let name = if at.is_empty() { format!(".wh.{name}") } else { format!("{at}/.wh.{name}") };
                        tar = tar.file(&name, b"");
                        if own.iter().all(clear) {
                            model.remove(&gone);
                        }
                        own.push(gone);
                    }
                }
            }
            _ => {
                if below.get(&folder) == Some(&Is::Folder)
                    && !own
                        .iter()
                        .any(|p| *p == folder || p.starts_with(&format!("{folder}/")) || folder.starts_with(p))
                {
                    tar = tar.file(&format!("{folder}/.wh..wh..opq"), b"");
                    model.remove(&folder);
                    model.put(&folder, Is::Folder);
                    own.push(format!("{folder}/"));
                }
            }
        }
        if let Some(kind) = made {
            model.put(&path, kind);
            own.push(path);
        }
    }
    tar.end()
}

fn compare(tars: &[Vec<u8>], what: &str) {
    let dir = tempfile::tempdir().expect("a folder");
    let image = dir.path().join("image");
    layout::layout(&image, tars);
    let bundle = dir.path().join("bundle");
    let mut command = Command::new(umoci());
    let out = command.args(["unpack", "--image"]).arg(format!("{}:latest", image.display())).arg(&bundle).output();
    let out = out.expect("umoci");
    assert!(out.status.success(), "{what}: umoci: {}", String::from_utf8_lossy(&out.stderr));
    let theirs = list(&bundle.join("rootfs"));
    let [overlay, flat] = both(tars);
    for (ours, how) in [(list(&flat.path("")), "flat"), (list_mounted(&overlay.rootfs.layers), "overlay")] {
        let mut differences = String::new();
        let (a, b): (Vec<_>, Vec<_>) = (theirs.lines().collect(), ours.lines().collect());
        let mut tell = |who: &str, lines: &[&str], others: &[&str]| {
            for line in lines.iter().filter(|line| !others.contains(line)) {
                writeln!(differences, "{who} {line}").expect("a text");
            }
        };
        tell("umoci", &a, &b);
        tell("here ", &b, &a);
        if !differences.is_empty() {
            let kept = dir.keep();
            panic!("{what}: {how} differs, see {}:\n{differences}", kept.display());
        }
    }
}

#[test]
fn random_images_are_what_umoci_makes_of_them() {
    for seed in 1..=20 {
        let mut chance = Chance(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed));
        let mut model = Model::default();
        let count = 2 + chance.below(4);
        let tars: Vec<_> = (0..count).map(|_| random_layer(&mut chance, &mut model, false)).collect();
        compare(&tars, &format!("seed {seed}"));
    }
}

#[test]
fn links_to_folders_of_lower_layers_lead_where_umoci_lets_them() {
    let lower = Tar::default().dir("usr", 0o755).dir("usr/lib", 0o755).symlink("lib", "usr/lib").symlink("l64", "/lib");
    let upper = Tar::default().file("lib/a", b"a").file("l64/b", b"b").symlink("etc", "/conf").file("etc/x", b"x");
    let top = Tar::default().file("etc/.wh.x", b"").file("lib/.wh.a", b"").file("etc/y", b"y");
    compare(&[lower.end(), upper.end(), top.end()], "links");
}

#[test]
fn both_ways_give_the_same_tree_whatever_whiteouts_there_are() {
    let mut refused = 0;
    for seed in 1..=30 {
        let mut chance = Chance(0xd1b5_4a32_d192_ed03_u64.wrapping_mul(seed));
        let mut model = Model::default();
        let tars: Vec<_> = (0..4).map(|_| random_layer(&mut chance, &mut model, true)).collect();
        let [overlay, flat] = [Method::Overlay, Method::Flat].map(|method| unpack(method, tars.clone()));
        match (overlay, flat) {
            (Ok(overlay), Ok(flat)) => {
                let (a, b) = (list_mounted(&overlay.rootfs.layers), list(&flat.path("")));
                if a != b {
                    let kept = tempfile::tempdir().expect("a folder").keep();
                    layout::layout(&kept, &tars);
                    let of = |a: &str, b: &str| a.lines().filter(|l| !b.contains(l)).collect::<Vec<_>>().join("\n");
                    panic!("seed {seed}, see {}: overlay\n{}\nflat\n{}", kept.display(), of(&a, &b), of(&b, &a));
                }
            }
            (Err(a), Err(b)) => {
                assert_eq!(a.to_string(), b.to_string(), "seed {seed}");
                refused += 1;
            }
            (a, b) => panic!("seed {seed}: overlay {:?}, flat {:?}", a.err(), b.err()),
        }
    }
    assert!(refused < 10, "{refused} of 30 images make no sense");
}

#[test]
fn no_change_of_bytes_makes_it_panic_or_write_elsewhere() {
    let mut chance = Chance(0x5eed);
    let good = Tar::default()
        .dir("d", 0o755)
        .pax(b'x', &[("path", b"d/long"), ("mtime", b"1.5"), ("SCHILY.xattr.user.a", b"v"), ("size", b"3")])
        .put(Entry { name: b"x", data: b"abc", ..Entry::default() })
        .pax(b'x', &[("GNU.sparse.major", b"1"), ("GNU.sparse.minor", b"0"), ("GNU.sparse.realsize", b"4096")])
        .put(Entry {
            name: b"sparse",
            data: &[b"1\n4090\n6\n".as_slice(), &[0; 503], b"abcdef"].concat(),
            ..Entry::default()
        })
        .symlink("l", "../../d")
        .link("l/h", "d/long")
        .file("l/.wh.x", b"")
        .put(Entry { kind: b'L', name: b"@", data: b"d/name\0", ..Entry::default() })
        .file("short", b"z")
        .end();
    both(std::slice::from_ref(&good));
    for _ in 0..600 {
        let mut bad = good.clone();
        for _ in 0..1 + chance.below(4) {
            let at = chance.below(bad.len());
            bad[at] = *chance.of(&[0, b'/', b'.', b'0', b'7', b'9', 0x80, 0xff, b'S', b'x', b'1', b'5', b'\n']);
        }
        // Right sums, so that what the fields say is looked at.
        for block in bad.as_chunks_mut::<512>().0 {
            if &block[257..262] == b"ustar" {
                layout::sum(block);
            }
        }
        let dir = tempfile::tempdir().expect("a folder");
        let snapshots = Snapshots::open(&dir.path().join("s"), Method::Overlay, Rights::Root).expect("snapshots");
        let limits = Limits { bytes: 1 << 24, entries: 100, ..Limits::default() };
        drop(snapshots.unpack(&[layer(bad)], &limits, &|_| {}));
        assert_eq!(std::fs::read_dir(dir.path()).expect("there").count(), 1);
    }
}
