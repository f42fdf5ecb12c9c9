//! States on a real disk: created, bound, measured, removed.

use std::time::Duration;

use super::*;

async fn states() -> (tempfile::TempDir, States) {
    let home = tempfile::tempdir().unwrap();
    let states = States::open(home.path()).await.unwrap();
    (home, states)
}

fn new(name: &str, class: StateClass) -> NewState {
    NewState {
        name: name.parse().unwrap(),
        class,
        kind: StateKind::Files,
        quota_bytes: 1000,
        time_to_live: None,
        target: None,
    }
}

#[tokio::test]
async fn a_state_is_found_by_name_and_id_until_it_is_removed() {
    let (home, states) = states().await;
    let made = states.create(new("readings", StateClass::Node)).await.unwrap();
    assert_eq!(states.get("readings").await.unwrap(), made);
    assert_eq!(states.get(&made.id.to_string()).await.unwrap(), made);
    assert!(matches!(states.create(new("readings", StateClass::Task)).await, Err(StateError::Exists { .. })));
    let again = States::open(home.path()).await.unwrap();
    assert_eq!(again.list("", 10).await.unwrap(), std::slice::from_ref(&made));
    assert!(again.list("readings", 10).await.unwrap().is_empty());
    again.remove(&made).await.unwrap();
    assert!(matches!(states.get("readings").await, Err(StateError::NotFound { .. })));
    assert!(!states.folder(made.id).root().exists());
}

#[tokio::test]
async fn a_database_of_an_older_version_is_brought_up_and_one_of_a_later_version_is_left_as_it_is() {
    use sqlx::sqlite::SqliteConnectOptions;
    use sqlx::{Connection as _, SqliteConnection};
    for version in super::MIGRATIONS.iter().map(|m| m.version) {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("db/state.sqlite");
        std::fs::create_dir(path.parent().unwrap()).unwrap();
        let options = SqliteConnectOptions::new().filename(&path).create_if_missing(true);
        let mut old = SqliteConnection::connect_with(&options).await.unwrap();
        super::MIGRATIONS.run_to(version, &mut old).await.unwrap();
        let row = "INSERT INTO state (id, name, class, kind, quota, created_us) VALUES (randomblob(16), 'readings', ?1, ?2, 7, 1)";
        let (class, kind) = (StateClass::Node.number(), StateKind::Files.number());
        sqlx::query(row).bind(class).bind(kind).execute(&mut old).await.unwrap();
        old.close().await.unwrap();
        let states = States::open(home.path()).await.unwrap();
        assert_eq!(states.get("readings").await.unwrap().quota_bytes, 7, "from version {version}");
        states.create(new("synced", StateClass::Node)).await.unwrap();
        drop(states);
        let mut later = SqliteConnection::connect_with(&options).await.unwrap();
        let migration = "INSERT INTO _sqlx_migrations SELECT 9000, 'later', installed_on, 1, checksum, 1 FROM _sqlx_migrations LIMIT 1";
        sqlx::query(migration).execute(&mut later).await.unwrap();
        let refused = States::open(home.path()).await.unwrap_err();
        assert!(matches!(refused, StateError::Later), "{refused}");
        let count: i64 = sqlx::query_scalar("SELECT count(*) FROM state").fetch_one(&mut later).await.unwrap();
        assert_eq!(count, 2, "from version {version}");
    }
}

#[tokio::test]
async fn one_writes_and_any_number_reads() {
    let (_home, states) = states().await;
    let state = states.create(new("a", StateClass::Node)).await.unwrap();
    let first = states.attach(&state, "t1", Mode::ReadWrite, OnBusy::Refuse).await.unwrap();
    let reader = states.attach(&state, "t2", Mode::ReadOnly, OnBusy::Refuse).await.unwrap();
    let busy = states.attach(&state, "t3", Mode::ReadWrite, OnBusy::Refuse).await;
    assert!(matches!(busy, Err(StateError::Busy { .. })));
    assert!(matches!(states.remove(&state).await, Err(StateError::InUse { .. })));
    let waiting = tokio::spawn({
        let (states, state) = (states.clone(), state.clone());
        async move { states.attach(&state, "t4", Mode::ReadWrite, OnBusy::Wait).await }
    });
    tokio::task::yield_now().await;
    std::fs::write(first.data().join("x"), b"seen").unwrap();
    assert_eq!(std::fs::read(reader.data().join("x")).unwrap(), b"seen");
    first.usage().grow(4).unwrap();
    assert_eq!(states.get("a").await.unwrap().used_bytes, 4);
    assert_eq!(first.release().unwrap(), Some(4));
    let second = waiting.await.unwrap().unwrap();
    assert_eq!(second.usage().bytes(), 4, "as the first one left it");
    drop(second);
    // Not released: counted again.
    std::fs::write(reader.data().join("y"), b"12345").unwrap();
    let third = states.attach(&state, "t5", Mode::ReadWrite, OnBusy::Refuse).await.unwrap();
    assert_eq!((third.usage().bytes(), third.usage().entries()), (9, 2));
    drop((third, reader));
    states.remove(&state).await.unwrap();
    let late = states.attach(&state, "t6", Mode::ReadOnly, OnBusy::Refuse).await;
    assert!(matches!(late, Err(StateError::NotFound { .. })));
}

#[tokio::test]
async fn each_task_has_its_own_and_takes_it_along() {
    let (_home, states) = states().await;
    let state = states.create(new("scratch", StateClass::Task)).await.unwrap();
    let one = states.attach(&state, "t1", Mode::ReadWrite, OnBusy::Refuse).await.unwrap();
    let two = states.attach(&state, "t2", Mode::ReadWrite, OnBusy::Refuse).await.unwrap();
    std::fs::write(one.data().join("x"), b"mine").unwrap();
    assert!(!two.data().join("x").exists());
    one.release().unwrap();
    // Another attempt of the same task.
    let again = states.attach(&state, "t1", Mode::ReadWrite, OnBusy::Refuse).await.unwrap();
    assert_eq!(again.usage().bytes(), 4);
    again.release().unwrap();
    states.end_task(state.id, "t1").await.unwrap();
    assert!(!one.data().exists() && two.data().exists());
    // Left behind by a process that died, by one that lives, and by a task that goes on.
    let left = states.attach(&state, "t3", Mode::ReadWrite, OnBusy::Refuse).await.unwrap();
    let kept = states.attach(&state, "t4", Mode::ReadWrite, OnBusy::Refuse).await.unwrap();
    let (left_data, kept_data) = (left.data().to_owned(), kept.data().to_owned());
    drop((left, kept));
    assert_eq!(states.sweep_tasks(state.id, |task| task == "t4").await.unwrap(), 1);
    assert!(!left_data.exists() && kept_data.exists() && two.data().exists());
}

#[tokio::test]
async fn time_runs_out() {
    let (_home, states) = states().await;
    let state =
        states.create(NewState { time_to_live: Some(Duration::ZERO), ..new("brief", StateClass::Node) }).await.unwrap();
    assert!(matches!(states.get("brief").await, Err(StateError::NotFound { .. })));
    assert!(states.list("", 10).await.unwrap().is_empty());
    assert_eq!(states.expired().await.unwrap(), [state]);
}

#[tokio::test]
async fn the_nearer_name_of_an_artifact_counts() {
    let (_home, states) = states().await;
    let (a, b) = (
        states.create(new("a", StateClass::Node)).await.unwrap(),
        states.create(new("b", StateClass::Node)).await.unwrap(),
    );
    let bound =
        |artifact: &str, alias: &str| Bound { artifact: artifact.into(), alias: alias.into(), read_only: false };
    states.bind(a.id, &bound("host/app", "data")).await.unwrap();
    states.bind(b.id, &bound("host/app:v1", "data")).await.unwrap();
    states.bind(b.id, &bound("host/app", "other")).await.unwrap();
    let names = |found: Vec<(State, Bound)>| {
        let mut names: Vec<_> = found.into_iter().map(|(s, b)| format!("{}={}", b.alias, s.name)).collect();
        names.sort();
        names
    };
    let found = states.bound_to(&["host/app".into(), "host/app:v1".into()]).await.unwrap();
    assert_eq!(names(found), ["data=b", "other=b"]);
    assert_eq!(names(states.bound_to(&["host/app".into()]).await.unwrap()), ["data=a", "other=b"]);
    assert_eq!(states.bindings(b.id).await.unwrap().len(), 2);
    states.remove(&b).await.unwrap();
    assert_eq!(names(states.bound_to(&["host/app".into(), "host/app:v1".into()]).await.unwrap()), ["data=a"]);
}

#[test]
fn names_that_can_not_be_are_refused() {
    for good in ["a", "0", "readings-2.x_y", &"a".repeat(63)] {
        assert!(good.parse::<StateName>().is_ok() && check_alias(good).is_ok(), "{good}");
    }
    for bad in ["", "A", ".x", "-x", "a/b", "..", "a b", "ä", &"a".repeat(64), &StateId::new().to_string()] {
        assert!(bad.parse::<StateName>().is_err() && check_alias(bad).is_err(), "{bad}");
    }
}

#[test]
fn many_that_flush_at_once_are_all_on_disk() {
    let home = tempfile::tempdir().unwrap();
    let flusher = Flusher::new(home.path());
    std::thread::scope(|scope| {
        for _ in 0..50 {
            scope.spawn(|| flusher.flush().unwrap());
        }
    });
    std::fs::remove_dir(home.path()).unwrap();
    assert!(flusher.flush().is_err(), "nothing was flushed");
}
