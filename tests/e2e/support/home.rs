//! A user's home in a temporary folder, and the commands run from it with nothing else of this machine's
//! environment: `vyr`, `oras`, `cosign` and the rest.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::process::{Output, run};
use super::{PASSWORD, Registry, USER, tool};

/// A home.
#[derive(Debug)]
pub(crate) struct Home {
    folder: TempDir,
}

/// A cosign key pair.
#[derive(Debug, Clone)]
pub(crate) struct Key {
    /// `NAME.key`, encrypted with the empty password.
    pub(crate) private: PathBuf,
    /// `NAME.pub`.
    pub(crate) public: PathBuf,
}

impl Home {
    /// An empty one.
    pub(crate) fn new() -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        for name in ["home", "docker", "work", "tmp"] {
            fs::create_dir(folder.path().join(name)).expect("the temporary folder can be written");
        }
        Self { folder }
    }

    /// The folder that commands run in.
    pub(crate) fn work(&self) -> PathBuf {
        self.folder.path().join("work")
    }

    /// `VYR_HOME`.
    pub(crate) fn vyr_home(&self) -> PathBuf {
        self.folder.path().join("vyr")
    }

    /// This machine's own key, made by the first push.
    pub(crate) fn machine_key(&self) -> Key {
        let keys = self.vyr_home().join("keys");
        Key { private: keys.join("machine.key"), public: keys.join("machine.pub") }
    }

    /// The store's folder, an OCI image layout.
    pub(crate) fn store(&self) -> PathBuf {
        self.vyr_home().join("store")
    }

    /// Writes a file of the work folder.
    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.work().join(name);
        fs::create_dir_all(path.parent().expect("it is below the work folder"))
            .expect("the work folder can be written");
        fs::write(&path, content).expect("the work folder can be written");
        path
    }

    /// A command in this home.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir(self.work())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.folder.path().join("home"))
            .env("TMPDIR", self.folder.path().join("tmp"))
            .env("DOCKER_CONFIG", self.folder.path().join("docker"))
            .env("VYR_HOME", self.vyr_home())
            .env("COSIGN_PASSWORD", "");
        command
    }

    /// The built `vyr`, as a command.
    pub(crate) fn vyr_command<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Command {
        let mut command = self.command(env!("CARGO_BIN_EXE_vyr"));
        command.args(arguments);
        command
    }

    /// `vyr`, as a user who owns nothing of this unless it was given to user 65534: who isn't root is one already, as far as the
    /// test took rights away.
    pub(crate) fn vyr_as_another_user<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Command {
        if !rustix::process::geteuid().is_root() {
            return self.vyr_command(arguments);
        }
        // Somebody else can't look into this user's folders, where the program may be.
        let program = self.work().join("vyr");
        fs::copy(env!("CARGO_BIN_EXE_vyr"), &program).expect("the work folder can be written");
        for folder in [self.work(), self.vyr_home(), self.folder.path().to_owned()] {
            if folder.is_dir() {
                fs::set_permissions(&folder, fs::Permissions::from_mode(0o711)).expect("the folder is this test's");
            }
        }
        let mut command = self.command("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(program).args(arguments);
        command
    }

    /// Runs `vyr`.
    #[track_caller]
    pub(crate) fn vyr<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Output {
        run(self.vyr_command(arguments), b"")
    }

    /// Runs one of the real tools.
    #[track_caller]
    pub(crate) fn tool<A: AsRef<OsStr>>(&self, name: &'static str, arguments: impl IntoIterator<Item = A>) -> Output {
        let mut command = self.command(tool(name));
        command.args(arguments);
        run(command, b"")
    }

    /// Gives Docker's configuration the password of `registry`.
    pub(crate) fn log_in(&self, registry: &Registry) {
        self.credentials(&registry.host(), USER, PASSWORD);
    }

    /// Gives Docker's configuration a user and a password for `host`.
    pub(crate) fn credentials(&self, host: &str, user: &str, password: &str) {
        use base64::Engine as _;
        let auth = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
        let config = serde_json::json!({ "auths": { host: { "auth": auth } } });
        fs::write(self.folder.path().join("docker/config.json"), config.to_string()).expect("the home can be written");
    }

    /// A new cosign key pair.
    #[track_caller]
    pub(crate) fn key(&self, name: &str) -> Key {
        self.tool("cosign", ["generate-key-pair", "--output-key-prefix", name]).expect(0);
        Key { private: self.work().join(format!("{name}.key")), public: self.work().join(format!("{name}.pub")) }
    }

    /// `cosign sign` as cosign 3 does it: a bundle, as a referrer. Without a transparency log, which is elsewhere.
    #[track_caller]
    pub(crate) fn cosign3_sign(&self, reference: &str, key: &Key) {
        let config = self.work().join("signing-config.json");
        if !config.is_file() {
            self.tool("cosign", [OsStr::new("signing-config"), "create".as_ref(), "--out".as_ref(), config.as_ref()])
                .expect(0);
        }
        let mut command = self.command(tool("cosign"));
        command.args(["sign", "-y", "--key"]).arg(&key.private).arg("--signing-config").arg(config).arg(reference);
        run(command, b"").expect(0);
    }

    /// `cosign sign` as cosign 2 does it: the tag `sha256-….sig`.
    #[track_caller]
    pub(crate) fn cosign2_sign(&self, reference: &str, key: &Key) {
        let mut command = self.command(tool("cosign-older"));
        command.args(["sign", "-y", "--tlog-upload=false", "--key"]).arg(&key.private).arg(reference);
        run(command, b"").expect(0);
    }

    /// `cosign verify` by `cosign` (3) or `cosign-older` (2).
    #[track_caller]
    pub(crate) fn cosign_verify(&self, cosign: &'static str, reference: &str, public: &Path) -> Output {
        let mut command = self.command(tool(cosign));
        command.args(["verify", "--insecure-ignore-tlog=true", "--key"]).arg(public).arg(reference);
        run(command, b"")
    }

    /// Tells this home's `vyr` to trust `key`.
    #[track_caller]
    pub(crate) fn trust(&self, key: &Key) {
        self.vyr([OsStr::new("trust"), "add".as_ref(), "--key".as_ref(), key.public.as_ref()]).expect(0);
    }

    /// `oras push REF app.wasm:application/wasm`, as people do it; the manifest's digest.
    #[track_caller]
    pub(crate) fn oras_push(&self, reference: &str, wasm: &Path) -> String {
        fs::copy(wasm, self.work().join("app.wasm")).unwrap_or_else(|e| panic!("{}: {e}", wasm.display()));
        // oras writes the second into the manifest; with the reference too, no two pushes are one digest by chance.
        let annotation = format!("example.reference={reference}");
        let words = ["push", "--format", "go-template={{.digest}}", "--annotation", &annotation, reference];
        let pushed = self.tool("oras", words.into_iter().chain(["app.wasm:application/wasm"])).expect(0);
        pushed.stdout.trim().to_owned()
    }

    /// The digest that `crane` sees under a reference.
    #[track_caller]
    pub(crate) fn crane_digest(&self, reference: &str) -> String {
        self.tool("crane", ["digest", reference]).expect(0).stdout.trim().to_owned()
    }
}
