//! What archives of strangers may try.

use super::*;
use crate::unpack::{Limit, beneath};

#[test]
fn names_that_lead_out_are_refused() {
    for name in ["../x", "a/../../x", "/../x", "a/b/../../../x"] {
        assert!(refused(Tar::default().file(name, b"x").end()).contains("leads out of the root"), "{name}");
    }
}

#[test]
fn absolute_names_and_dots_lie_in_the_root() {
    for one in both(&[Tar::default().file("/etc/./x", b"a").file("//b/../c//d", b"b").end()]) {
        assert_eq!(one.read("etc/x").as_deref(), Some("a"));
        assert_eq!(one.read("/c/d").as_deref(), Some("b"));
        assert!(!one.path("b").exists());
    }
}

#[test]
fn a_link_out_of_the_root_is_followed_inside_of_it() {
    let outside = tempfile::tempdir().expect("a folder");
    let target = outside.path().to_str().expect("text");
    let up = format!("../../../../../../../../../..{target}");
    for target in [target, &up] {
        let tar = Tar::default().symlink("l", target).file("l/x", b"in").link("h", "l/x").end();
        for one in both(&[tar]) {
            assert_eq!(std::fs::read_dir(outside.path()).expect("there").count(), 0);
            assert_eq!(one.read("l/x").as_deref(), Some("in"));
            assert_eq!(one.read("h").as_deref(), Some("in"));
        }
    }
}

#[test]
fn a_link_out_is_not_written_through_from_a_later_layer() {
    let outside = tempfile::tempdir().expect("a folder");
    std::fs::write(outside.path().join("passwd"), "kept").expect("written");
    let target = outside.path().to_str().expect("text");
    let lower = Tar::default().symlink("l", target).end();
    let upper = Tar::default().file("l/passwd", b"new").file("l/.wh.passwd", b"").dir("l/.wh..wh..opq", 0).end();
    both(&[lower, upper]);
    assert_eq!(std::fs::read_to_string(outside.path().join("passwd")).expect("there"), "kept");
}

#[test]
fn hard_links_out_of_the_root_are_refused() {
    let outside = tempfile::tempdir().expect("a folder");
    std::fs::write(outside.path().join("secret"), "s").expect("written");
    let target = outside.path().to_str().expect("text");
    let link = refused(Tar::default().link("h", "../../../../etc/passwd").end());
    assert!(link.contains("outside of the root"), "{link}");
    let absolute = refused(Tar::default().link("h", "/etc/passwd").end());
    assert!(absolute.contains("a file that isn't there"), "{absolute}");
    let through = refused(Tar::default().symlink("l", target).link("h", "l/secret").end());
    assert!(through.contains("a file that isn't there"), "{through}");
    let folder = refused(Tar::default().dir("d", 0o755).link("h", "d").end());
    assert!(folder.contains("hard link to a folder"), "{folder}");
}

#[test]
fn a_file_over_a_link_replaces_the_link() {
    let outside = tempfile::tempdir().expect("a folder");
    let victim = outside.path().join("victim");
    std::fs::write(&victim, "kept").expect("written");
    let tar = Tar::default().symlink("l", victim.to_str().expect("text")).file("l", b"new").end();
    for one in both(&[tar]) {
        assert_eq!(one.read("l").as_deref(), Some("new"));
    }
    assert_eq!(std::fs::read_to_string(&victim).expect("there"), "kept");
}

#[test]
fn links_in_a_circle_are_refused() {
    let error = refused(Tar::default().symlink("a", "b").symlink("b", "a").file("a/x", b"").end());
    assert!(error.contains("more than 40 symbolic links"), "{error}");
}

#[test]
fn whiteouts_of_the_root_or_its_parent_are_refused() {
    for name in [".wh.", ".wh..", ".wh...", "d/.wh.."] {
        let error = refused(Tar::default().file(name, b"").end());
        assert!(error.contains("a whiteout must name"), "{name}: {error}");
    }
    let error = refused(Tar::default().symlink(".", "/etc").end());
    assert!(error.contains("the root can only be a folder"), "{error}");
}

#[test]
fn devices_are_made_by_nobody_and_pipes_by_all() {
    let device = |name: &'static [u8], device| Entry { kind: b'3', name, device, ..Entry::default() };
    let tar = Tar::default().put(device(b"null", (1, 3))).put(device(b"gone", (0, 0)));
    let tar = tar.put(Entry { kind: b'6', name: b"pipe", ..Entry::default() }).end();
    let user = unpack_with(Method::Overlay, Rights::User, Limits::default(), &[layer(tar.clone())]).expect("unpacked");
    for one in both(std::slice::from_ref(&tar)).into_iter().chain([user]) {
        assert!(!one.path("null").exists() && !one.path("gone").exists());
        assert!(one.path("pipe").metadata().expect("there").file_type().is_fifo());
        assert_eq!(one.rootfs.left_out().devices, 2);
    }
}

#[test]
fn attributes_that_are_the_machines_own_are_left_out() {
    // Version 2: all for the owner, the rest may read and execute.
    let access = b"\x02\0\0\0\x01\0\x07\0\xff\xff\xff\xff\x04\0\x05\0\xff\xff\xff\xff\x20\0\x05\0\xff\xff\xff\xff";
    let own: [(&str, &[u8]); 9] = [
        ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
        ("SCHILY.xattr.trusted.overlay.redirect", b"/x"),
        ("SCHILY.xattr.user.overlay.opaque", b"y"),
        ("SCHILY.xattr.user.overlay.redirect", b"/x"),
        ("SCHILY.xattr.trusted.any", b"v"),
        ("SCHILY.xattr.security.selinux", b"unconfined_u:object_r:bin_t:s0\0"),
        ("SCHILY.xattr.security.ima", b"\x01"),
        ("SCHILY.xattr.security.evm", b"\x02"),
        ("SCHILY.xattr.system.posix_acl_other", b"v"),
    ];
    let kept: [(&str, &[u8]); 2] =
        [("SCHILY.xattr.user.kept", b"v"), ("SCHILY.xattr.system.posix_acl_default", access)];
    let tar = Tar::default().pax(b'x', &own).pax(b'x', &kept).dir("d", 0o755).pax(b'x', &own).pax(b'x', &kept[..1]);
    let tar = tar.file("f", b"").pax(b'x', &own).symlink("l", "f").end();
    for one in both(&[tar]) {
        for path in ["d", "f", "l"] {
            for (name, _) in own {
                let name = name.trim_start_matches("SCHILY.xattr.");
                // What this machine may have set itself is not the image's.
                let mut value = [0_u8; 256];
                let is = rustix::fs::lgetxattr(one.path(path), name, &mut value[..]).is_ok();
                assert!(!is || name == "security.selinux", "{path} {name}");
            }
        }
        let mut value = [0_u8; 64];
        for (path, name) in [("d", "user.kept"), ("d", "system.posix_acl_default"), ("f", "user.kept")] {
            assert!(rustix::fs::getxattr(one.path(path), name, &mut value[..]).is_ok(), "{path} {name}");
        }
        assert_eq!(one.rootfs.left_out().attributes, 27);
    }
}

#[test]
fn a_terabyte_of_hole_is_stopped_before_it_is_made() {
    let entry = Entry { kind: b'S', name: b"hole", size: Some(0), ..Entry::default() };
    let mut block = layout::header(&entry);
    block[257..265].copy_from_slice(b"ustar  \0");
    block[483..495].copy_from_slice(b"\x80\0\0\0\0\0\x01\0\0\0\0\0");
    layout::sum(&mut block);
    let tar = Tar(block.to_vec()).end();
    let error = unpack(Method::Overlay, vec![tar]).err().expect("refused");
    assert!(matches!(error, UnpackError::Limit { limit: Limit::Bytes(_), .. }), "{error}");

    let tar = Tar::default().put(Entry { name: b"f", size: Some(1 << 40), ..Entry::default() }).end();
    let error = unpack(Method::Flat, vec![tar]).err().expect("refused");
    assert!(matches!(error, UnpackError::Limit { limit: Limit::Bytes(_), .. }), "{error}");
}

#[test]
fn entries_and_bytes_count_over_all_layers() {
    let some = |name: &str| {
        let mut tar = Tar::default();
        for n in 0..60 {
            tar = tar.file(&format!("{name}{n}"), b"1234567890");
        }
        layer(tar.end())
    };
    for method in [Method::Overlay, Method::Flat] {
        let image = [some("a"), some("b")];
        let limits = Limits { entries: 100, ..Limits::default() };
        let error = unpack_with(method, Rights::Root, limits, &image).err().expect("refused");
        assert!(matches!(error, UnpackError::Limit { limit: Limit::Entries(100), .. }), "{error}");
        let limits = Limits { bytes: 1000, ..Limits::default() };
        let error = unpack_with(method, Rights::Root, limits, &image).err().expect("refused");
        assert!(matches!(error, UnpackError::Limit { limit: Limit::Bytes(1000), .. }), "{error}");
        assert!(error.to_string().contains("1000 bytes"), "{error}");
        // A layer that is there already counts as well.
        let dir = tempfile::tempdir().expect("a folder");
        let snapshots = Snapshots::open(dir.path(), method, Rights::Root).expect("snapshots");
        drop(snapshots.unpack(&image[..1], &limits, &|_| {}).expect("unpacked"));
        let error = snapshots.unpack(&image, &limits, &|_| {}).expect_err("refused");
        assert!(matches!(error, UnpackError::Limit { limit: Limit::Bytes(1000), .. }), "{error}");
    }
}

#[test]
fn a_bomb_of_what_is_not_files_is_stopped() {
    let mut tar = Tar::default().file("f", b"x").end();
    tar.resize(tar.len() + (8 << 20), 0);
    let diff_id = layout::sha256(&tar);
    let bomb = typed(layout::gzip(&tar), diff_id, "application/vnd.oci.image.layer.v1.tar+gzip");
    let limits = Limits { bytes: 1 << 20, ..Limits::default() };
    let error = unpack_with(Method::Overlay, Rights::Root, limits, &[bomb]).err().expect("refused");
    assert!(matches!(error, UnpackError::Limit { limit: Limit::Bytes(_), .. }), "{error}");

    let huge = Entry { kind: b'L', name: b"x", size: Some(1 << 32), ..Entry::default() };
    let error = refused(Tar::default().put(huge).end());
    assert!(error.contains("larger than 1 MiB"), "{error}");
}

#[test]
fn deep_and_long_paths_are_refused() {
    let deep = vec!["d"; 300].join("/");
    let error = refused(Tar::default().pax(b'x', &[("path", deep.as_bytes())]).file("x", b"").end());
    assert!(error.contains("256 folders deep"), "{error}");
    let error = refused(Tar::default().pax(b'x', &[("path", &[b'n'; 256])]).file("x", b"").end());
    assert!(error.contains("longer than 255 bytes"), "{error}");
    // Links add up to what no single name is.
    let half = vec!["d"; 200].join("/");
    let tar = Tar::default()
        .pax(b'x', &[("path", half.as_bytes())])
        .dir("x", 0o755)
        .pax(b'x', &[("linkpath", half.as_bytes())])
        .symlink("l", "x")
        .pax(b'x', &[("path", format!("l/{half}/f").as_bytes())])
        .file("x", b"");
    let error = refused(tar.end());
    assert!(error.contains("256 folders deep"), "{error}");
    let error = refused(Tar::default().pax(b'x', &[("path", b"a\0b")]).file("x", b"").end());
    assert!(error.contains("zero byte"), "{error}");
}

#[test]
fn folders_that_are_only_implied_count() {
    let deep = |top: &str| format!("{top}/{}", vec!["d"; 200].join("/"));
    let mut tar = Tar::default();
    for top in ["a", "b"] {
        tar = tar.pax(b'x', &[("path", deep(top).as_bytes())]).file("x", b"");
    }
    let image = [layer(tar.end())];
    for method in [Method::Overlay, Method::Flat] {
        let limits = Limits { entries: 300, ..Limits::default() };
        let error = unpack_with(method, Rights::Root, limits, &image).err().expect("refused");
        assert!(matches!(error, UnpackError::Limit { limit: Limit::Entries(300), .. }), "{error}");
        let limits = Limits { entries: 402, ..Limits::default() };
        drop(unpack_with(method, Rights::Root, limits, &image).expect("two files in 200 folders each"));
    }
}

#[test]
fn what_is_held_until_the_end_of_a_layer_is_bounded() {
    let value = [b'v'; 1000];
    let mut folders = Tar::default();
    let mut again = Tar::default();
    for n in 0..40 {
        folders = folders.pax(b'x', &[("SCHILY.xattr.user.a", &value)]).dir(&format!("d{n}"), 0o755);
        again = again.pax(b'x', &[("SCHILY.xattr.user.a", &value)]).dir("one", 0o755);
        again = again.dir("gone", 0o755).dir("gone/d", 0o755).file("gone", b"");
    }
    let limits = Limits { held: 20_000, ..Limits::default() };
    let image = [layer(folders.end())];
    for method in [Method::Overlay, Method::Flat] {
        let error = unpack_with(method, Rights::Root, limits, &image).err().expect("refused");
        assert!(matches!(error, UnpackError::Limit { limit: Limit::Held(20_000), .. }), "{error}");
        assert!(error.to_string().contains(&image[0].digest), "{error}");
        let again = layer(Tar(again.0.clone()).end());
        drop(unpack_with(method, Rights::Root, limits, &[again]).expect("what is replaced isn't held"));
        // In one folder with those of the layers below, each path is held, and what one layer held the next does not.
        let names = |from: u32| {
            let files =
                (from..from + 150).fold(Tar::default(), |tar, n| tar.file(&format!("{n}-{}", "n".repeat(80)), b""));
            layer(files.end())
        };
        let short = Limits { held: 10_000, ..limits };
        let more = unpack_with(method, Rights::Root, limits, &[names(0), names(0), names(500)]);
        assert!(more.is_ok(), "{:?}", more.err());
        let more = unpack_with(method, Rights::Root, short, &[names(0), names(0)]);
        assert_eq!(more.is_err(), method == Method::Flat);
    }
}

#[test]
fn the_extended_headers_of_one_entry_are_bounded() {
    let comment = vec![b'c'; 900 << 10];
    let comments = |count| (0..count).fold(Tar::default(), |tar, _| tar.pax(b'x', &[("comment", &comment)]));
    both(&[comments(2).file("f", b"").pax(b'x', &[("comment", &comment)]).file("g", b"").end()]);
    let error = refused(comments(3).file("f", b"").end());
    assert!(error.contains("larger than 2 MiB together"), "{error}");
    for kind in [b'x', b'L', b'K'] {
        let none = (0..4100).fold(Tar::default(), |tar, _| tar.put(Entry { kind, name: b"p", ..Entry::default() }));
        let error = refused(none.file("f", b"").end());
        assert!(error.contains("larger than 2 MiB together"), "{error}");
    }
}

#[test]
fn the_attributes_of_one_entry_are_bounded() {
    let value = vec![b'v'; 65_537];
    let large = Tar::default().pax(b'x', &[("SCHILY.xattr.user.a", &value)]).file("f", b"").end();
    let error = refused(large);
    assert!(error.contains("larger than 64 KiB"), "{error}");
    let many = (0..5).fold(Tar::default(), |tar, _| tar.pax(b'x', &[("SCHILY.xattr.user.a", &value[..60_000])]));
    let error = refused(many.dir("d", 0o755).end());
    assert!(error.contains("larger than 256 KiB together"), "{error}");
    // Names without values take memory as well.
    let names: Vec<_> = (0..6000).map(|n| format!("SCHILY.xattr.user.{n}")).collect();
    let records: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), &b""[..])).collect();
    let error = refused(Tar::default().pax(b'x', &records).file("f", b"").end());
    assert!(error.contains("larger than 256 KiB together"), "{error}");
}

#[test]
fn a_folder_is_listed_once_however_often_a_layer_empties_it() {
    let some = |n: u32| (0..3).fold(Tar::default(), |tar, f| tar.file(&format!("d/e/f/{n}{f}"), b"").file("d/x", b""));
    let lower = some(0).file("g/h", b"").end();
    for whiteouts in [
        &["d/e/f/.wh..wh..opq", "d/e/.wh..wh..opq", "d/.wh..wh..opq", ".wh..wh..opq"][..],
        &[".wh..wh..opq", "d/.wh..wh..opq"],
        &["d/e/.wh.f", "d/.wh.e", ".wh.d"],
        &[".wh.d", "d/e/.wh..wh..opq"],
    ] {
        let again = |times: u32| {
            let mut tar = some(1);
            for n in 0..times {
                tar = whiteouts.iter().fold(tar, |tar, name| tar.file(name, b""));
                tar = tar.file(&format!("d/e/f/new{}", n % 2), b"");
            }
            tar.end()
        };
        for method in [Method::Overlay, Method::Flat] {
            let [once, often] = [2, 200].map(|times| {
                beneath::LISTED.set(0);
                let one = unpack(method, vec![lower.clone(), again(times)]).expect("unpacked");
                for (path, content) in [("d/e/f/00", None), ("d/e/f/10", Some("")), ("d/e/f/new1", Some(""))] {
                    assert_eq!(one.read(path).as_deref(), content, "{method:?} {whiteouts:?} {path}");
                }
                beneath::LISTED.get()
            });
            assert_eq!(once, often, "{method:?} {whiteouts:?}");
        }
    }
}

#[test]
fn the_map_of_a_sparse_file_counts() {
    let limits = Limits { bytes: 16 << 10, ..Limits::default() };
    // GNU's own form: blocks of 21 pieces each, all of them empty, of a file of no bytes.
    let mut block = layout::header(&Entry { kind: b'S', name: b"f", size: Some(0), ..Entry::default() });
    block[257..265].copy_from_slice(b"ustar  \0");
    block[386..482].copy_from_slice(&b"00000000000\0".repeat(8));
    block[482] = 1;
    block[483..495].copy_from_slice(b"00000000000\0");
    layout::sum(&mut block);
    let mut more = [0_u8; 512];
    more[..504].copy_from_slice(&b"00000000000\0".repeat(42));
    more[504] = 1;
    let old = |blocks: usize| {
        let mut bytes = block.to_vec();
        bytes.extend(more.repeat(blocks));
        *bytes.iter_mut().rev().nth(7).expect("a block") = 0;
        layer(Tar(bytes).end())
    };
    // The form 1.0: lines of numbers before the data.
    let new = |pieces: usize| {
        let mut map = format!("{pieces}\n{}", "0\n0\n".repeat(pieces)).into_bytes();
        map.resize(map.len().next_multiple_of(512), 0);
        let records: [(&str, &[u8]); 4] = [
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", b"f"),
            ("GNU.sparse.realsize", b"0"),
        ];
        layer(Tar::default().pax(b'x', &records).file("f", &map).end())
    };
    for (little, much) in [(old(8), old(64)), (new(1 << 10), new(8 << 10))] {
        let fits = unpack_with(Method::Overlay, Rights::Root, limits, &[little]);
        assert!(fits.is_ok(), "{:?}", fits.err());
        let error = unpack_with(Method::Overlay, Rights::Root, limits, &[much]).err().expect("refused");
        assert!(matches!(error, UnpackError::Limit { limit: Limit::Bytes(_), .. }), "{error}");
    }
}

#[test]
fn ways_that_wind_without_end_are_refused() {
    // Each link goes in place two thousand times and then on to the next: an entry behind forty of them takes 80,000 parts.
    let mut tar = Tar::default().dir("d", 0o755);
    for link in 0..40 {
        let next = if link == 0 { "d".to_owned() } else { format!("l{}", link - 1) };
        let target = format!("{}{next}", "./".repeat(2000));
        tar = tar.pax(b'x', &[("linkpath", target.as_bytes())]).symlink(&format!("l{link}"), "x");
    }
    for file in 0..300 {
        tar = tar.file(&format!("l39/{file}"), b"");
    }
    let error = unpack(Method::Overlay, vec![tar.end()]).err().expect("refused").to_string();
    assert!(error.contains("more than 20 million parts"), "{error}");
}
