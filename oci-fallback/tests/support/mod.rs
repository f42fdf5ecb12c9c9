//! Owns the way to a container in a test: a root of busybox, a request with all defaults, and what came of it.

pub(crate) mod cases;
mod ends;
mod limits;
mod reach;

use std::fs;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use vyr_oci_fallback::container::{self, Execution, Limits, Mount, Network, Outcome, Request, RunError, Stdio};
use vyr_oci_fallback::engine::Choice;
use vyr_oci_fallback::process::Process;
use vyr_oci_fallback::snapshot::{Method, Rights, Rootfs};

/// Both, whatever the other does: each has to work.
pub(crate) const ENGINES: [&str; 2] = ["libcontainer", "crun"];

/// An ordinary user that every machine has.
const NOBODY: u32 = 65534;

pub(crate) type Case = fn(&World);
pub(crate) type Told = Result<(), String>;

/// Where a case runs.
pub(crate) struct World {
    engine: Choice,
    user: bool,
    root: PathBuf,
}

/// What came of a run.
pub(crate) struct Ran {
    pub(crate) id: String,
    pub(crate) end: Result<Execution, RunError>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    #[track_caller]
    pub(crate) fn ended(&self, outcome: &Outcome) -> &Execution {
        match &self.end {
            Ok(execution) if execution.outcome == *outcome => execution,
            other => panic!("{outcome:?} expected: {other:?}\nstdout: {}\nstderr: {}", self.stdout, self.stderr),
        }
    }
}

/// What can be asked of a run; all else is as by default.
pub(crate) struct Wish {
    pub(crate) process: Process,
    pub(crate) limits: Limits,
    pub(crate) network: Network,
    pub(crate) writable_root: bool,
    pub(crate) mounts: Vec<Mount>,
    pub(crate) stop_grace: Duration,
    pub(crate) stdin: Vec<u8>,
    pub(crate) flat: bool,
    /// One more layer, over the others.
    pub(crate) over: Option<PathBuf>,
    pub(crate) id: String,
}

/// `script` for the shell.
pub(crate) fn sh(script: &str) -> Wish {
    argv(&["sh", "-c", script])
}

pub(crate) fn argv(words: &[&str]) -> Wish {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let id = format!("case-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    Wish {
        process: Process {
            argv: words.iter().map(ToString::to_string).collect(),
            env: vec![("PATH".into(), "/usr/bin:/bin".into()), ("HOME".into(), "/".into())],
            cwd: "/".into(),
            uid: 0,
            gid: 0,
            groups: Vec::new(),
            stop_signal: libc::SIGTERM,
            volumes: Vec::new(),
        },
        limits: Limits::default(),
        network: Network::None,
        writable_root: false,
        mounts: Vec::new(),
        stop_grace: Duration::from_secs(5),
        stdin: Vec::new(),
        flat: false,
        over: None,
        id,
    }
}

impl World {
    pub(crate) fn run(&self, wish: Wish) -> Ran {
        self.run_until(wish, |_| async {})
    }

    /// Also runs `beside`, which may cancel.
    pub(crate) fn run_until<F: Future<Output = ()>>(
        &self,
        wish: Wish,
        beside: impl FnOnce(CancellationToken) -> F,
    ) -> Ran {
        self.run_until_killed(wish, |cancel, _| beside(cancel))
    }

    /// Also runs `beside`, which may cancel or kill.
    pub(crate) fn run_until_killed<F: Future<Output = ()>>(
        &self,
        wish: Wish,
        beside: impl FnOnce(CancellationToken, CancellationToken) -> F,
    ) -> Ran {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut rootfs = self.rootfs_under(wish.over.as_deref());
        if wish.flat {
            rootfs.method = Method::Flat;
        }
        let (stdio, streams) = streams(&wish.stdin);
        let id = wish.id.clone();
        let request = request(wish, &rootfs, stdio);
        let (cancel, kill) = (CancellationToken::new(), CancellationToken::new());
        let stop = container::Stop { cancel: &cancel, kill: &kill };
        let end = runtime.block_on(async {
            let run = container::run_until(&self.engine, request, stop);
            let (end, ()) = tokio::join!(run, beside(cancel.clone(), kill.clone()));
            end
        });
        let [stdout, stderr] = streams.map(|stream| stream.join().unwrap());
        Ran { id, end, stdout, stderr }
    }

    pub(crate) fn rootfs(&self) -> Rootfs {
        self.rootfs_under(None)
    }

    fn rootfs_under(&self, over: Option<&Path>) -> Rootfs {
        let rights = if self.user { Rights::User } else { Rights::Root };
        let layers = [self.root.as_path()].into_iter().chain(over).map(Path::to_owned).collect();
        Rootfs::of_folders(layers, Method::Overlay, rights)
    }

    pub(crate) fn is_user(&self) -> bool {
        self.user
    }

    /// This program, running `wish`'s like in a process of its own until somebody ends it.
    pub(crate) fn other(&self, id: &str) -> Command {
        self.other_from("/proc/self/exe", "hold", id)
    }

    /// The same from another file; or with `obey`, what ends when it is told to, and with `spared`, what tells its score.
    pub(crate) fn other_from(&self, program: &str, what: &str, id: &str) -> Command {
        let mut command = Command::new(program);
        command.arg0("containers").args(["--part", what, self.engine_name(), id]).arg(&self.root);
        command
    }

    fn engine_name(&self) -> &'static str {
        if self.engine == Choice::Libcontainer { ENGINES[0] } else { ENGINES[1] }
    }
}

fn request(mut wish: Wish, rootfs: &Rootfs, stdio: Stdio) -> Request<'_> {
    // By it what is left of a run is found.
    wish.process.env.push(("CASE".into(), wish.id.clone()));
    Request {
        id: wish.id,
        rootfs,
        process: wish.process,
        hostname: "inside".into(),
        mounts: wish.mounts,
        writable_root: wish.writable_root,
        limits: wish.limits,
        network: wish.network,
        stop_grace: wish.stop_grace,
        stdio,
    }
}

type Reader = std::thread::JoinHandle<String>;

fn streams(input: &[u8]) -> (Stdio, [Reader; 2]) {
    let (stdin, mut writer) = std::io::pipe().unwrap();
    let input = input.to_vec();
    std::thread::spawn(move || {
        // The container may end without having read it.
        let _ = writer.write_all(&input);
    });
    let reader = || {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let thread = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            reader.read_to_end(&mut bytes).unwrap();
            String::from_utf8_lossy(&bytes).into_owned()
        });
        (OwnedFd::from(writer), thread)
    };
    let ((stdout, out), (stderr, err)) = (reader(), reader());
    (Stdio { stdin: stdin.into(), stdout, stderr }, [out, err])
}

/// A case in this process.
pub(crate) fn as_root(engine: &str, case: Case) -> Told {
    if !rustix::process::geteuid().is_root() {
        return Err("to be root is needed here: the other half of the cases is an ordinary user's".into());
    }
    case(&world(engine, false, &folders().join("root")));
    Ok(())
}

/// A case in a process of an ordinary user.
pub(crate) fn as_user(engine: &str, name: &str) -> Told {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    let program = PROGRAM.get_or_init(|| {
        // The build's folder may be out of that user's reach.
        let copy = folders().join("containers");
        fs::copy("/proc/self/exe", &copy).unwrap();
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
        // As somebody who has installed it at home, so that only what is tested is in the way of changing it.
        chown(&copy, Some(NOBODY), Some(NOBODY)).unwrap();
        copy
    });
    let output = Command::new(program)
        .args(["--part", "case", engine, name])
        .arg(folders().join("user"))
        .uid(NOBODY)
        .gid(NOBODY)
        .output()
        .map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{}\n{}", output.status, String::from_utf8_lossy(&output.stderr)))
}

fn world(engine: &str, user: bool, root: &Path) -> World {
    let engine = match engine {
        "libcontainer" => Choice::Libcontainer,
        path if path.starts_with('/') => Choice::Installed(path.into()),
        name => Choice::Installed(tool(name)),
    };
    World { engine, user, root: root.to_owned() }
}

/// The parts of a test that are in a process of their own.
pub(crate) fn run_part_if_asked() {
    let arguments: Vec<String> = std::env::args().collect();
    if arguments.get(1).is_some_and(|part| part == "--look") {
        let started = std::time::Instant::now();
        let machine = vyr_oci_fallback::probe::look(None);
        println!("{machine:#?} {:?}", started.elapsed());
        std::process::exit(0);
    }
    if arguments.get(1).is_some_and(|part| part == "--attack") {
        reach::attack();
    }
    let [_, part, what, engine, name, root] = arguments.as_slice() else { return };
    if part != "--part" {
        return;
    }
    let user = !rustix::process::geteuid().is_root();
    let world = world(engine, user, Path::new(root));
    if what == "case" {
        let case = cases::ALL.iter().find(|(other, _)| other == name).expect("a case of that name").1;
        case(&world);
    } else if what == "times" {
        times(&world, name.parse().expect("a number"));
    } else {
        let mut wish = match what.as_str() {
            "obey" => sh("trap 'echo asked; exit 0' TERM; echo up; while :; do sleep 0.05; done"),
            "spared" => {
                fs::write("/proc/self/oom_score_adj", "-500").unwrap();
                sh("cat /proc/self/oom_score_adj")
            }
            _ => sh("echo up; sleep 1000 & trap '' TERM; sleep 1000; sleep 1000"),
        };
        wish.id.clone_from(name);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let rootfs = world.rootfs();
        let stdio = Stdio {
            stdin: fs::File::open("/dev/null").unwrap().into(),
            stdout: rustix::io::dup(std::io::stdout()).unwrap(),
            stderr: rustix::io::dup(std::io::stderr()).unwrap(),
        };
        let cancel = CancellationToken::new();
        let told = cancel.clone();
        std::thread::spawn(move || {
            // A line, and not its end, is the wish to stop.
            if std::io::stdin().read_line(&mut String::new()).is_ok_and(|read| read > 0) {
                told.cancel();
            }
        });
        let end = runtime.block_on(container::run(&world.engine, request(wish, &rootfs, stdio), &cancel));
        println!("{end:?}");
    }
    std::process::exit(0);
}

/// How long a run takes from start to end, and beside it `crun run` of the bundle beside the root. In turn, so that both meet
/// the same weather.
fn times(world: &World, count: usize) {
    let mut ours = Vec::new();
    let mut others = Vec::new();
    let bundle = world.root.with_file_name("bundle");
    for at in 0..count {
        let started = std::time::Instant::now();
        world.run(argv(&["/bin/true"])).ended(&Outcome::Exited(0));
        ours.push(started.elapsed());
        let started = std::time::Instant::now();
        let status = Command::new(tool("crun"))
            .args(["run", "--bundle"])
            .arg(&bundle)
            .arg(format!("other-{at}"))
            .stdin(std::process::Stdio::null())
            .status()
            .expect("crun");
        assert!(status.success());
        others.push(started.elapsed());
    }
    for (name, times) in [("vyr", &mut ours), ("crun run", &mut others)] {
        times.sort();
        println!("{name}: P50 {:?} P90 {:?}", times[count / 2], times[count * 9 / 10]);
    }
}

/// A program that the tests need.
fn tool(name: &str) -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../envs/tools");
    let output = Command::new(&script).args(["path", name]).output().expect("envs/tools");
    let path = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    assert!(output.status.success() && path.is_file(), "{name} is missing: run `envs/tools`");
    path
}

static FOLDERS: OnceLock<tempfile::TempDir> = OnceLock::new();

/// Removes what the cases ran on: nobody drops it.
pub(crate) fn clean_up() {
    if let Some(folder) = FOLDERS.get() {
        fs::remove_dir_all(folder.path()).unwrap();
    }
}

/// The roots, made once a process.
fn folders() -> &'static Path {
    FOLDERS
        .get_or_init(|| {
            let folder = tempfile::Builder::new().prefix("vyr-containers-").tempdir().unwrap();
            fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
            for (name, owner) in [("root", 0), ("user", NOBODY)] {
                make_root(&folder.path().join(name), owner);
            }
            folder
        })
        .path()
}

fn make_root(root: &Path, owner: u32) {
    let busybox = tool("busybox");
    for folder in ["bin", "etc", "tmp", "var/lib/data", "home/app", "srv"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
    fs::copy(&busybox, root.join("bin/busybox")).unwrap();
    let applets = Command::new(&busybox).arg("--list").output().unwrap();
    for applet in String::from_utf8_lossy(&applets.stdout).lines().filter(|applet| *applet != "busybox") {
        symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n").unwrap();
    fs::write(root.join("var/lib/data/seed"), "from the image\n").unwrap();
    fs::write(root.join("srv/plain"), "no program\n").unwrap();
    // A link that leads out of a root that isn't careful.
    symlink("/../../../../../../etc", root.join("srv/out")).unwrap();
    // As in some distributions' images.
    symlink("../run/systemd/resolve/stub-resolv.conf", root.join("etc/resolv.conf")).unwrap();
    own(root, owner);
}

fn own(path: &Path, owner: u32) {
    if path.is_symlink() {
        return;
    }
    chown(path, Some(owner), Some(owner)).unwrap();
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            own(&entry.unwrap().path(), owner);
        }
    }
}
