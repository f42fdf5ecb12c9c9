use super::users::{self, User};
use super::*;

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nbroken line\n:x:5:5::/:\napp:x:1000:1001:App:/home/app:/bin/sh\n\
    nohome:x:1002:1002\nbig:x:99999999999:0::/:/bin/sh\n7:x:70:70::/seven:/bin/sh\nuid7:x:7:8::/real:/bin/sh\n";
const GROUP: &str = "root:x:0:\napp:x:1001:\nwheel:x:10:root,app\nbad\nvideo:x:44:app\nown:x:1001:app\n";

fn user(uid: u32, gid: u32, groups: &[u32], home: &str) -> User {
    User { uid, gid, groups: groups.to_vec(), home: home.into() }
}

#[test]
fn users_in_every_form() {
    let find = |wanted| users::find(wanted, PASSWD, GROUP);
    assert_eq!(find(""), Ok(user(0, 0, &[10], "/root")));
    assert_eq!(find("app"), Ok(user(1000, 1001, &[10, 44], "/home/app")));
    assert_eq!(find("1000"), Ok(user(1000, 1001, &[10, 44], "/home/app")));
    assert_eq!(find("app:video"), Ok(user(1000, 44, &[], "/home/app")));
    assert_eq!(find("1000:5"), Ok(user(1000, 5, &[], "/home/app")));
    assert_eq!(find("4242"), Ok(user(4242, 0, &[], "/")));
    assert_eq!(find("4242:4243"), Ok(user(4242, 4243, &[], "/")));
    assert_eq!(find("nohome"), Ok(user(1002, 1002, &[], "/")));
    assert_eq!(find("7"), Ok(user(70, 70, &[], "/seven")), "a name goes before a number");
    assert_eq!(find("nobody"), Err(ProcessError::UnknownUser("nobody".into())));
    assert_eq!(find("big"), Err(ProcessError::UnknownUser("big".into())));
    assert_eq!(find("4294967295"), Err(ProcessError::UnknownUser("4294967295".into())));
    assert_eq!(find("app:none"), Err(ProcessError::UnknownGroup("none".into())));
}

#[test]
fn a_command_as_docker_joins_it() {
    let words = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<_>>();
    let (entrypoint, cmd) = (words(&["/entry", "-a"]), words(&["serve"]));
    let over = |entrypoint: Option<&[&str]>, args: &[&str]| Overrides {
        entrypoint: entrypoint.map(words),
        args: words(args),
        ..Overrides::default()
    };
    assert_eq!(argv(&entrypoint, &cmd, &over(None, &[])), Ok(words(&["/entry", "-a", "serve"])));
    assert_eq!(argv(&entrypoint, &cmd, &over(None, &["x", "y"])), Ok(words(&["/entry", "-a", "x", "y"])));
    assert_eq!(argv(&entrypoint, &cmd, &over(Some(&["sh"]), &[])), Ok(words(&["sh"])));
    assert_eq!(argv(&entrypoint, &cmd, &over(Some(&["sh"]), &["-c"])), Ok(words(&["sh", "-c"])));
    assert_eq!(argv(&[], &cmd, &over(None, &[])), Ok(words(&["serve"])));
    assert_eq!(argv(&[], &[], &over(None, &[])), Err(ProcessError::NoCommand));
    assert_eq!(argv(&entrypoint, &cmd, &over(Some(&[]), &[])), Err(ProcessError::NoCommand));
}

#[test]
fn variables_keep_their_order_and_the_last_value() {
    let image = ["B=1", "A=x=y", "B=2", "EMPTY"].map(String::from);
    let own = Overrides { env: vec![("A".into(), "own".into()), ("C".into(), "3".into())], ..Overrides::default() };
    let all = environment(&image, &own, "/home/app");
    let all: Vec<String> = all.iter().map(|(name, value)| format!("{name}={value}")).collect();
    assert_eq!(all, ["B=2", "A=own", "EMPTY=", "C=3", &format!("PATH={PATH}"), "HOME=/home/app"]);
}

#[test]
fn stop_signals() {
    for (name, number) in [
        ("SIGTERM", Some(15)),
        ("term", Some(15)),
        ("QUIT", Some(3)),
        ("9", Some(9)),
        ("SIGRTMIN+3", Some(37)),
        ("RTMAX-1", Some(63)),
        ("SIGRTMIN", Some(34)),
        ("SIGWINCH", Some(28)),
        ("0", None),
        ("65", None),
        ("SIGRTMIN+99", None),
        ("SIGNOT", None),
    ] {
        assert_eq!(signal(name), number, "{name}");
    }
}

#[test]
fn places_that_are_none() {
    assert_eq!(working_dir("").as_deref(), Ok("/"));
    assert_eq!(working_dir("srv").as_deref(), Ok("/srv"));
    assert!(working_dir("/srv/../..").is_err());
    assert_eq!(volumes(&["/var/b".into(), "/var".into(), "/var".into()]), Ok(vec!["/var".into(), "/var/b".into()]));
    for bad in ["/", "relative", "/proc/x", "/a/../b", "/dev"] {
        assert!(volumes(&[bad.into()]).is_err(), "{bad}");
    }
}
