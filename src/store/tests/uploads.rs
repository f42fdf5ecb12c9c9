//! Whatever is written to an upload, left, taken back and gone on with: it has the bytes that it was given, and becomes a
//! blob only when they are what the digest says.

use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use uuid::Uuid;

use super::super::{BlobWriter, Layout, Progress, StoreError};
use crate::oci::{Digest, DigestAlgorithm, Hasher, sha256};

#[derive(Debug, Clone)]
enum Step {
    Begin(bool),
    Add(Vec<u8>),
    /// Written and taken back.
    Wrong(Vec<u8>),
    /// Nobody knows any more how far the hash was.
    Forget,
    /// The writer goes without having said that it's paused, as in a failure: then the upload is gone.
    Drop(Vec<u8>),
    Commit {
        right: bool,
        long: bool,
    },
    Abandon,
    Expire {
        old: bool,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let bytes = || proptest::collection::vec(any::<u8>(), 0..300);
    prop_oneof![
        3 => any::<bool>().prop_map(Step::Begin),
        6 => bytes().prop_map(Step::Add),
        2 => bytes().prop_map(Step::Wrong),
        2 => Just(Step::Forget),
        1 => bytes().prop_map(Step::Drop),
        3 => (any::<bool>(), any::<bool>()).prop_map(|(right, long)| Step::Commit { right, long }),
        1 => Just(Step::Abandon),
        1 => any::<bool>().prop_map(|old| Step::Expire { old }),
    ]
}

fn digest(content: &[u8], long: bool) -> Digest {
    let mut hasher = if long { Hasher::sha512() } else { Hasher::sha256() };
    hasher.update(content);
    hasher.finish()
}

struct Open {
    id: Uuid,
    content: Vec<u8>,
    progress: Option<Progress>,
}

impl Open {
    fn writer(&mut self, layout: &Layout) -> BlobWriter {
        let writer = layout.upload_writer("a/b", self.id, self.progress.take()).expect("a writer").expect("is there");
        assert_eq!(writer.position(), self.content.len() as u64);
        writer
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_upload_is_its_bytes(steps in proptest::collection::vec(step(), 1..40)) {
        let home = crate::fuzz::scratch();
        let layout = Layout::create(home.path()).expect("a layout");
        let (mut open, mut blobs): (Option<Open>, Vec<(Digest, Vec<u8>)>) = (None, Vec::new());
        for step in steps {
            match step {
                Step::Begin(long) => {
                    if open.is_none() {
                        let id = Uuid::now_v7();
                        layout.begin_upload("a/b", id).expect("begun");
                        let algorithm = if long { DigestAlgorithm::Sha512 } else { DigestAlgorithm::Sha256 };
                        open = Some(Open { id, content: Vec::new(), progress: Progress::start(algorithm) });
                    }
                }
                Step::Add(bytes) => {
                    let Some(upload) = &mut open else { continue };
                    let mut writer = upload.writer(&layout);
                    writer.add(&bytes).expect("written");
                    upload.progress = Some(writer.pause().expect("paused"));
                    upload.content.extend(bytes);
                }
                Step::Wrong(bytes) => {
                    let Some(upload) = &mut open else { continue };
                    let before = upload.progress.clone();
                    let mut writer = upload.writer(&layout);
                    writer.add(&bytes).expect("written");
                    upload.progress = writer.rewind(before, upload.content.len() as u64).expect("taken back");
                }
                Step::Forget => open.iter_mut().for_each(|upload| upload.progress = None),
                Step::Drop(bytes) => {
                    let Some(mut upload) = open.take() else { continue };
                    let mut writer = upload.writer(&layout);
                    writer.add(&bytes).expect("written");
                    drop(writer);
                    prop_assert_eq!(layout.upload_length("a/b", upload.id).expect("looked"), None);
                }
                Step::Commit { right, long } => {
                    let Some(mut upload) = open.take() else { continue };
                    let wanted = if right { digest(&upload.content, long) } else { digest(b"something else", long) };
                    let lease = layout.lease().expect("a lease");
                    let ended = upload.writer(&layout).expecting(&wanted).expect("expected").commit(&lease);
                    prop_assert_eq!(layout.upload_length("a/b", upload.id).expect("looked"), None, "it is over");
                    if right {
                        prop_assert_eq!(ended.expect("committed"), (wanted.clone(), upload.content.len() as u64));
                        blobs.push((wanted, upload.content));
                    } else {
                        let mismatch = matches!(ended, Err(StoreError::Mismatch { .. }));
                        prop_assert!(mismatch);
                        prop_assert_eq!(layout.blob_size(&wanted).expect("looked"), None);
                    }
                }
                Step::Abandon => {
                    let Some(upload) = open.take() else { continue };
                    prop_assert!(layout.abandon_upload("a/b", upload.id).expect("abandoned"));
                    prop_assert!(!layout.abandon_upload("a/b", upload.id).expect("asked again"));
                }
                Step::Expire { old } => {
                    let now = SystemTime::now() + Duration::from_secs(if old { 2 * 24 * 3600 } else { 0 });
                    let left = layout.expire_uploads(now).expect("swept");
                    if old {
                        open = None;
                    }
                    prop_assert_eq!(left.into_iter().map(|u| u.id).collect::<Vec<_>>(), open.iter().map(|u| u.id).collect::<Vec<_>>());
                }
            }
            if let Some(upload) = &open {
                let length = layout.upload_length("a/b", upload.id).expect("looked");
                prop_assert_eq!(length, Some(upload.content.len() as u64));
                prop_assert_eq!(layout.upload_length("a/c", upload.id).expect("looked"), None, "it's another's");
                if sha256(&upload.content) != sha256(b"") && !blobs.iter().any(|(_, c)| *c == upload.content) {
                    let early = layout.blob_size(&sha256(&upload.content)).expect("looked");
                    prop_assert_eq!(early, None, "nothing shows before its end");
                }
            }
            for (digest, content) in &blobs {
                prop_assert_eq!(&layout.read_verified(digest, 1 << 20).expect("whole"), content);
            }
        }
        let left = std::fs::read_dir(home.path().join("ingest")).expect("listed").count();
        prop_assert_eq!(left, usize::from(open.is_some()), "nothing else is left");
    }
}
