//! How layers are compressed, cut off, or not what they say.

use super::*;

const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

fn one(bytes: Vec<u8>, diff_id: String, media_type: &str) -> Result<Unpacked, UnpackError> {
    unpack_with(Method::Overlay, Rights::Root, Limits::default(), &[typed(bytes, diff_id, media_type)])
}

fn archive() -> (Vec<u8>, String) {
    let mut state = 1_u32;
    let mut noise = vec![0; 700_000];
    noise.fill_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    });
    let tar = Tar::default().file("a", b"a").file("noise", &noise).end();
    let diff_id = layout::sha256(&tar);
    (tar, diff_id)
}

#[test]
fn the_first_bytes_say_how_a_layer_is_compressed() {
    let (tar, diff_id) = archive();
    let (head, tail) = tar.split_at(300_000);
    let members = [layout::gzip(head), layout::gzip(tail)].concat();
    let frames = [head, tail].map(|part| zstd::encode_all(part, 3).expect("zstd")).concat();
    for (bytes, media_type) in [
        (tar.clone(), "application/vnd.oci.image.layer.v1.tar"),
        (tar.clone(), GZIP),
        (layout::gzip(&tar), GZIP),
        (layout::gzip(&tar), "application/vnd.docker.image.rootfs.diff.tar.gzip"),
        (layout::gzip(&tar), "application/vnd.oci.image.layer.v1.tar"),
        (layout::gzip(&tar), ""),
        (members, GZIP),
        (frames.clone(), "application/vnd.oci.image.layer.v1.tar+zstd"),
        (frames, "application/vnd.docker.image.rootfs.diff.tar.zstd"),
    ] {
        let unpacked = one(bytes, diff_id.clone(), media_type).unwrap_or_else(|e| panic!("{media_type}: {e}"));
        assert_eq!(unpacked.read("a").as_deref(), Some("a"), "{media_type}");
        assert_eq!(unpacked.path("noise").metadata().expect("there").len(), 700_000);
    }
}

#[test]
fn what_is_no_layer_is_refused_by_its_type() {
    let (tar, diff_id) = archive();
    for media_type in [
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        "application/vnd.in-toto+json",
        "application/vnd.oci.image.layer.v1.tar+gzip+encrypted",
    ] {
        let error = one(tar.clone(), diff_id.clone(), media_type).err().expect("refused");
        assert!(matches!(error, UnpackError::MediaType { .. }), "{error}");
    }
    let error = one(b"\xfd7zXZ\0".to_vec(), diff_id, GZIP).err().expect("refused").to_string();
    assert!(error.contains("xz"), "{error}");
}

#[test]
fn a_layer_that_ends_too_early_is_refused() {
    let (tar, diff_id) = archive();
    let packed = layout::gzip(&tar);
    let zstd = zstd::encode_all(&tar[..], 3).expect("zstd");
    for cut in [packed[..packed.len() / 2].to_vec(), zstd[..zstd.len() / 2].to_vec(), tar[..tar.len() / 2].to_vec()] {
        let error = one(cut, diff_id.clone(), GZIP).err().expect("refused");
        assert_eq!(io_kind(&error), io::ErrorKind::UnexpectedEof, "{error}");
        assert!(error.to_string().contains("\"noise\""), "{error}");
    }
    let lying = Tar::default().put(Entry { name: b"f", size: Some(1 << 20), data: b"short", ..Entry::default() }).end();
    let error = refused(lying);
    assert!(error.contains("ends in the middle"), "{error}");
}

#[test]
fn a_layer_that_is_another_is_refused_and_both_are_named() {
    let (tar, diff_id) = archive();
    let other = layout::sha256(b"other");
    let error = one(layout::gzip(&tar), other.clone(), GZIP).err().expect("refused");
    let UnpackError::DiffId { expected, actual, .. } = &error else { panic!("{error}") };
    assert_eq!((expected, actual), (&other, &diff_id));
    assert!(error.to_string().contains(&other) && error.to_string().contains(&diff_id));
    let mut longer = tar;
    longer.push(0);
    let error = one(longer, diff_id, GZIP).err().expect("what follows the end counts");
    assert!(matches!(error, UnpackError::DiffId { .. }), "{error}");
    let error = one(Vec::new(), "sha256:../../x".into(), GZIP).err().expect("refused");
    assert!(matches!(error, UnpackError::BadDiffId(_)), "{error}");
}

#[test]
fn headers_that_make_no_sense_are_refused() {
    let good = layout::header(&Entry { name: b"f", ..Entry::default() });
    let mut sum = good;
    sum[0] = b'g';
    assert!(refused(Tar(sum.to_vec()).end()).contains("sum is wrong"));
    assert!(refused(Tar::default().put(Entry { kind: b'?', name: b"f", ..Entry::default() }).end()).contains("type"));
    let mut negative = good;
    negative[124..136].fill(0xff);
    layout::sum(&mut negative);
    assert!(refused(Tar(negative.to_vec()).end()).contains("negative"));
    let records: [&[u8]; 4] = [b"9 path=\n", b"99 path=x\n", b"path=x\n", b"18446744073709551616 a=b\n"];
    for data in records {
        let tar = Tar::default().put(Entry { kind: b'x', name: b"p", data, ..Entry::default() }).file("f", b"").end();
        let error = refused(tar);
        assert!(error.contains("extended header"), "{error}");
    }
    assert!(refused(Tar::default().pax(b'x', &[("path", b"f")]).end()).contains("extended header"));
    let owner = Tar::default().pax(b'x', &[("uid", b"4294967295")]).file("f", b"").end();
    assert!(refused(owner).contains("out of range"));
}

#[test]
fn long_names_of_all_kinds_and_names_that_are_no_text() {
    let long = "d/".repeat(80) + "file";
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(1);
    header.set_mode(0o600);
    builder.append_data(&mut header, &long, &b"g"[..]).expect("appended");
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    builder.append_link(&mut header, "link", &long).expect("appended");
    let gnu = builder.into_inner().expect("a tar");
    let pax = format!("{long}-pax");
    let more = Tar::default()
        .pax(b'g', &[("path", b"ignored"), ("comment", b"c")])
        .pax(b'x', &[("path", pax.as_bytes())])
        .file("short", b"p")
        .put(Entry { name: b"\xff\xfe", data: b"n", ..Entry::default() })
        .end();
    for one in both(&[gnu, more]) {
        assert_eq!(one.read("link").as_deref(), Some("g"));
        assert_eq!(one.read(&pax).as_deref(), Some("p"));
        assert_eq!(one.read("ignored"), None);
        let name: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(b"\xff\xfe");
        assert!(one.path("").join(name).exists());
    }
}

#[test]
fn sparse_files_keep_their_holes() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("sparse");
    let file = std::fs::File::create(&path).expect("made");
    for n in 0..40_u64 {
        std::os::unix::fs::FileExt::write_at(&file, &[7; 4096], n * (1 << 20) + 4096).expect("written");
    }
    file.set_len(64 << 20).expect("long");
    let content = std::fs::read(&path).expect("read");
    for form in ["gnu", "pax --sparse-version=0.0", "pax --sparse-version=0.1", "pax --sparse-version=1.0"] {
        let mut tar = std::process::Command::new("sh");
        let out = tar.arg("-c").arg(format!("tar -cS --format={form} sparse")).current_dir(dir.path()).output();
        let out = out.expect("tar");
        assert!(out.status.success() && out.stdout.len() < 1 << 20, "{form}: {}", String::from_utf8_lossy(&out.stderr));
        for one in both(&[out.stdout]) {
            assert!(std::fs::read(one.path("sparse")).expect("there") == content, "{form}");
            assert!(one.path("sparse").metadata().expect("there").blocks() < 2048, "{form}");
        }
    }
}
