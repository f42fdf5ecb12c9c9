//! Export and import, and layouts that mean harm.

use std::path::{Path, PathBuf};

use super::super::{LayoutSource, StoreError};
use super::{Home, index_json, put};
use crate::oci::{Digest, LayoutName, sha256};

const NAME: &str = "localhost:5000/app:v1";

/// A home with a dual artifact, its signature by tag and one by referrer. Returns the index's digest.
async fn full() -> (Home, Digest) {
    let home = Home::new().await;
    let child = home.artifact(b"module").await;
    let size = home.layout().blob_size(&child).expect("size").expect("is there");
    let lease = home.store.lease().expect("a lease");
    let index = put(&home.store, &lease, &index_json(&[(&child, size), (&sha256(b"not pulled"), 9)])).await;
    home.store.tag(NAME, &index).await.expect("tagged");
    home.referrer(&index).await;
    let signature = home.artifact(b"signature").await;
    let name = format!("localhost:5000/app:sha256-{}.sig", index.digest());
    home.store.tag(&name, &signature).await.expect("tagged");
    home.artifact(b"unrelated").await;
    (home, index)
}

#[tokio::test]
async fn an_export_comes_back_the_same() {
    let (home, index) = full().await;
    let out = tempfile::tempdir().expect("a folder");
    let what = [(index.clone(), Some(NAME.to_owned()))];
    for name in ["one.tar", "two.tar", "folder"] {
        let to = out.path().join(name);
        home.store.export(&what, &to).await.expect("exported");
        let fresh = Home::new().await;
        let roots = fresh.store.import(&to, None).await.expect("imported");
        assert_eq!(roots.len(), 3, "{roots:?}");
        assert_eq!(fresh.store.resolve(NAME).await.expect("resolved"), Some(index.clone()));
        assert_eq!(fresh.store.referrers(&index, None).await.expect("referrers").len(), 1);
        assert_eq!(fresh.store.signature_tags(&index).await.expect("signatures").len(), 1);
        assert_eq!(fresh.verify_all().await.expect("verified"), 4, "nothing unrelated, nothing missing");
        let chosen = Home::new().await;
        chosen.store.import(&to, Some(&LayoutName::Tag("v1".into()))).await.expect("imported");
        assert_eq!(chosen.verify_all().await.expect("verified"), 4);
    }
    let [one, two] = ["one.tar", "two.tar"].map(|n| std::fs::read(out.path().join(n)).expect("read"));
    assert!(one == two, "the same content is the same tar");
    assert!(!out.path().join("folder/.ingest").exists());
}

#[tokio::test]
async fn an_export_adds_to_a_folder() {
    let home = Home::new().await;
    let (a, b) = (home.artifact(b"a").await, home.artifact(b"b").await);
    let out = tempfile::tempdir().expect("a folder");
    home.store.export(&[(a.clone(), Some("app:1".into()))], out.path()).await.expect("exported");
    home.store
        .export(&[(b.clone(), Some("app:2".into())), (b.clone(), Some("app:2".into()))], out.path())
        .await
        .expect("exported");
    let source = LayoutSource::open(out.path()).expect("opens");
    assert_eq!(source.names(), ["app:1", "app:2"]);
    assert_eq!(source.resolve(Some(&LayoutName::Tag("2".into()))).expect("resolved").digest(), &b);
    assert_eq!(source.resolve(Some(&LayoutName::Digest(a.clone()))).expect("resolved").digest(), &a);
    let error = source.resolve(None).expect_err("there are two");
    assert!(error.to_string().contains("app:1, app:2"), "{error}");
    assert!(matches!(source.resolve(Some(&LayoutName::Tag("3".into()))), Err(StoreError::NotInLayout { .. })));
    home.store.export(&[(b.clone(), Some("app:1".into()))], out.path()).await.expect("exported");
    let source = LayoutSource::open(out.path()).expect("opens");
    assert_eq!(source.resolve(None).expect("one artifact is left").digest(), &b, "a name moves");
    let absent = sha256(b"absent");
    assert!(matches!(home.store.export(&[(absent, None)], out.path()).await, Err(StoreError::NoArtifact(_))));
}

#[tokio::test]
async fn the_one_artifact_needs_no_name_whatever_is_about_it() {
    let (home, index) = full().await;
    let out = tempfile::tempdir().expect("a folder");
    let to = out.path().join("a.tar");
    home.store.export(&[(index.clone(), Some(NAME.into()))], &to).await.expect("exported");
    let source = LayoutSource::open(&to).expect("opens");
    assert_eq!(source.resolve(None).expect("resolved").digest(), &index);
    let mut copied = Vec::new();
    assert_eq!(source.copy_blob(&sha256(b"module"), &mut copied).expect("copied"), 6);
    assert_eq!(copied, b"module");
    assert!(matches!(source.copy_blob(&sha256(b"absent"), &mut copied), Err(StoreError::NotInLayout { .. })));
}

#[tokio::test]
async fn altered_layouts_are_refused_and_nothing_is_listed() {
    let (home, index) = full().await;
    let out = tempfile::tempdir().expect("a folder");
    let altered: [(&str, &[u8]); 3] = [("altered", b"modulE"), ("truncated", b"modul"), ("longer", b"module!")];
    for (name, bytes) in altered {
        let to = out.path().join(name);
        home.store.export(&[(index.clone(), Some(NAME.into()))], &to).await.expect("exported");
        std::fs::write(to.join("blobs/sha256").join(sha256(b"module").digest()), bytes).expect("altered");
        let fresh = Home::new().await;
        let error = crate::Error::from(fresh.store.import(&to, None).await.expect_err("refused"));
        assert_eq!(error.kind(), crate::ErrorKind::Refused, "{error}");
        assert!(fresh.store.list().await.expect("listed").is_empty());
        assert!(fresh.ingest_is_empty());
    }
    // The store's own damage doesn't travel either.
    std::fs::write(home.layout().blob_path(&sha256(b"module")), b"modulE").expect("altered");
    let tar = out.path().join("a.tar");
    assert!(matches!(home.store.export(&[(index, None)], &tar).await, Err(StoreError::Mismatch { .. })));
    assert!(!tar.exists());
    assert_eq!(std::fs::read_dir(out.path()).expect("listed").count(), 3, "no half-written file is left");
}

fn tar_with(folder: &Path, name: &str, change: impl FnOnce(&mut tar::Header, &mut Vec<u8>)) -> PathBuf {
    let path = folder.join("bad.tar");
    let mut tar = tar::Builder::new(Vec::new());
    let mut content = b"x".to_vec();
    let mut header = tar::Header::new_gnu();
    header.set_size(1);
    header.set_mode(0o644);
    // Past the checks of the crate's own writer.
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    change(&mut header, &mut content);
    header.set_cksum();
    for (name, bytes) in [("oci-layout", super::super::layout::MARKER), ("index.json", b"{\"manifests\":[]}")] {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        tar.append_data(&mut header, name, bytes).expect("added");
    }
    tar.append(&header, content.as_slice()).expect("added");
    std::fs::write(&path, tar.into_inner().expect("ended")).expect("written");
    path
}

#[tokio::test]
async fn archives_that_reach_out_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let good = tar_with(folder.path(), "blobs/sha256/x", |_, _| {});
    LayoutSource::open(&good).expect("the frame itself is good");
    for name in ["../x", "blobs/../../x", "/etc/x", "oci-layout"] {
        let path = tar_with(folder.path(), name, |_, _| {});
        assert!(matches!(LayoutSource::open(&path), Err(StoreError::Archive { .. })), "{name}");
    }
    for kind in [tar::EntryType::Symlink, tar::EntryType::Link, tar::EntryType::Fifo, tar::EntryType::Char] {
        let path = tar_with(folder.path(), "blobs/sha256/x", |header, content| {
            header.set_entry_type(kind);
            header.set_size(0);
            header.set_link_name("/etc/passwd").expect("set");
            content.clear();
        });
        let error = LayoutSource::open(&path).expect_err("refused");
        assert!(matches!(error, StoreError::Archive { .. }), "{error}");
        let home = Home::new().await;
        assert!(home.store.import(&path, None).await.is_err());
    }
    let path = tar_with(folder.path(), "blobs/sha256/x", |header, _| header.set_size(1 << 40));
    assert!(matches!(LayoutSource::open(&path), Err(StoreError::Layout { .. })), "a length that lies");
    for (bytes, words) in [(&[0x1f, 0x8b, 8, 0][..], "compressed"), (b"not a tar", "tar"), (b"", "oci-layout")] {
        std::fs::write(&path, bytes).expect("written");
        let error = LayoutSource::open(&path).expect_err("refused");
        assert!(error.to_string().contains(words), "{error}");
    }
    assert!(LayoutSource::open(folder.path()).is_err(), "a folder that is no layout");
}
