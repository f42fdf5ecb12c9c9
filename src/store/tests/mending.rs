//! What a repair needs of the store: its database made again, of what it was and of the layout, and older ones brought up.

use std::os::unix::fs::FileExt as _;

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Connection as _, SqliteConnection};

use super::super::db::MIGRATIONS;
use super::super::{Origin, Store, StoreError, mend_database};
use super::{Home, index_json, put};
use crate::oci::{Digest, sha256};
use crate::sqlite::complaints;

fn name(digest: &Digest) -> String {
    format!("localhost:5000/app:{}", &digest.digest()[..12])
}

async fn checkpointed(home: Home) -> tempfile::TempDir {
    let Home { folder, store } = home;
    store.pool().close().await;
    folder
}

#[tokio::test]
async fn a_database_of_an_older_version_is_brought_up_and_one_of_a_later_version_is_left_as_it_is() {
    for version in MIGRATIONS.iter().map(|m| m.version) {
        let home = Home::new().await;
        let digest = home.artifact(b"module").await;
        let folder = checkpointed(home).await;
        let path = folder.path().join("db/vyr.sqlite");
        std::fs::remove_file(&path).expect("removed");
        let options = SqliteConnectOptions::new().filename(&path).create_if_missing(true);
        let mut old = SqliteConnection::connect_with(&options).await.expect("made");
        MIGRATIONS.run_to(version, &mut old).await.expect("the older version");
        for row in [
            "INSERT INTO manifests (digest, media_type, size, created_at, last_used) VALUES (?1, 'a', 1, 1, 1)",
            "INSERT INTO origins (digest, repository) VALUES (?1, 'localhost:5000/app')",
            "UPDATE meta SET value = 1 WHERE key = 'imported' AND ?1 <> ''",
        ] {
            sqlx::query(row).bind(digest.as_ref()).execute(&mut old).await.expect("written");
        }
        old.close().await.expect("closed");
        let store = Store::open(folder.path()).await.expect("an older one opens");
        // What was recorded before it was known what proves an origin proves nothing.
        let origin = Origin { repository: "localhost:5000/app".into(), proven: false };
        assert_eq!(store.origins(&digest).await.expect("origins"), [origin], "from version {version}");
        store.tag(&name(&digest), &digest).await.expect("tagged");
        store.pool().close().await;
        let mut later = SqliteConnection::connect_with(&options).await.expect("opened");
        let migration = "INSERT INTO _sqlx_migrations SELECT 9000, 'later', installed_on, 1, checksum, 1 FROM _sqlx_migrations LIMIT 1";
        sqlx::query(migration).execute(&mut later).await.expect("written");
        let refused = Store::open(folder.path()).await.expect_err("a later one");
        assert!(matches!(refused, StoreError::Later { .. }), "{refused}");
        let tags: i64 = sqlx::query_scalar("SELECT count(*) FROM tags").fetch_one(&mut later).await.expect("read");
        assert_eq!(tags, 1, "from version {version}");
    }
}

#[tokio::test]
async fn the_listing_is_made_again_whatever_is_damaged() {
    let mut lost = 0;
    for number in 0..12_u64 {
        let home = Home::new().await;
        let lease = home.store.lease().expect("a lease");
        let mut all = Vec::new();
        for n in 0..60_u32 {
            let digest = home.artifact(format!("layer {n}").as_bytes()).await;
            home.store.tag(&name(&digest), &digest).await.expect("tagged");
            home.store.seen_in(&digest, "localhost:5000/app").await.expect("noted");
            all.push(digest);
        }
        let size = home.layout().blob_size(&all[0]).expect("size").expect("is there");
        let index = put(&home.store, &lease, &index_json(&[(&all[0], size)])).await;
        drop(lease);
        let listed = home.store.list().await.expect("listed").len();
        let index_file = home.layout().index_path();
        let folder = checkpointed(home).await;
        let path = folder.path().join("db/vyr.sqlite");
        let file = std::fs::OpenOptions::new().write(true).open(&path).expect("opened");
        let pages = file.metadata().expect("size").len() / 4096;
        let is_all = number == 11;
        if is_all {
            file.set_len(100).expect("cut");
            // Then the tags are what the index says, and it is at hand.
            assert!(index_file.exists());
        } else {
            file.write_all_at(&[0x5a; 4096], (1 + number * (pages - 1) / 11) * 4096).expect("overwritten");
        }
        drop(file);
        assert!(!complaints(&path, true, true).await.expect("looked").is_empty(), "{number}");
        mend_database(&super::super::Layout::at(folder.path())).await.expect("mended");
        assert!(complaints(&path, true, true).await.expect("looked").is_empty(), "{number}");
        let store = Store::open(folder.path()).await.expect("opens");
        assert_eq!(store.list().await.expect("listed").len(), listed, "{number}");
        super::verify_all(&store).await.expect("all verifies");
        let mut origins = 0;
        for digest in &all {
            assert_eq!(store.resolve(&name(digest)).await.expect("resolved").as_ref(), Some(digest), "{number}");
            let blobs = store.referred(&sha256(b"layer 0")).await.expect("referred");
            assert!(blobs.roots == [index.clone()] && blobs.names.contains(&name(&all[0])), "{number}: {blobs:?}");
            origins += store.origins(digest).await.expect("origins").len();
        }
        lost += usize::from(origins < all.len());
    }
    assert!(lost < 6, "what isn't damaged is carried over: {lost}");
}
