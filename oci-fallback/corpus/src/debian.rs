//! Owns what comes of Debian's archive: the base root, and packages installed over it, each as the layer that it makes.
//! The archive's address is that of this system's own apt sources, as `envs/tools` finds it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::cache::{Cache, key};
use crate::kit::{Kit, run, script};

/// What nobody reads in a container. The packages installed over the base are cut in the same way: dpkg remembers.
const CUT: [&str; 4] = ["/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*"];

#[derive(Debug)]
pub(crate) struct Debian<'a> {
    cache: &'a Cache,
    kit: &'a Kit,
}

impl<'a> Debian<'a> {
    pub(crate) fn new(cache: &'a Cache, kit: &'a Kit) -> Self {
        Self { cache, kit }
    }

    /// The one source that apt is to see, and its suite.
    fn source(&self) -> Result<(PathBuf, String)> {
        let output = Command::new(script()).args(["archive", "own"]).output()?;
        let text = String::from_utf8(output.stdout)?;
        ensure!(output.status.success(), "envs/tools: {}", String::from_utf8_lossy(&output.stderr).trim());
        let suite = text.lines().find_map(|line| line.strip_prefix("Suites: ")).context("a source has a suite")?;
        let path = self.cache.path("apt/only.sources");
        std::fs::create_dir_all(self.cache.path("apt/lists/partial"))?;
        std::fs::create_dir_all(self.cache.path("apt/cache/archives/partial"))?;
        std::fs::write(&path, &text)?;
        Ok((path, suite.to_owned()))
    }

    /// The essential packages, unpacked.
    pub(crate) fn base(&self) -> Result<PathBuf> {
        let name = format!("base-{}", key(&CUT)?);
        let root = self.cache.path(name);
        self.cache.once(root, |made| {
            ensure!(rustix::process::geteuid().is_root(), "roots with their owners are made by root alone");
            let (source, suite) = self.source()?;
            let mut words: Vec<String> = vec!["--variant=essential".into(), "--include=adduser,passwd".into()];
            words.push("--aptopt=APT::Install-Recommends \"false\"".into());
            words.extend(CUT.iter().map(|path| format!("--dpkgopt=path-exclude={path}")));
            words.extend(["--dpkgopt=force-unsafe-io".into(), "--format=directory".into(), suite]);
            words.extend([made.display().to_string(), source.display().to_string()]);
            self.kit.run("mmdebstrap", &words).context("mmdebstrap")?;
            Ok(())
        })
    }

    fn apt(&self, base: &Path, words: &[&str]) -> Result<String> {
        let (source, _) = self.source()?;
        let path = |name: &str| self.cache.path(name).display().to_string();
        let settings = [
            format!("Dir::Etc::sourcelist={}", source.display()),
            "Dir::Etc::sourceparts=-".into(),
            format!("Dir::State::Lists={}", path("apt/lists")),
            format!("Dir::Cache={}", path("apt/cache")),
            format!("Dir::State::status={}", base.join("var/lib/dpkg/status").display()),
            "APT::Install-Recommends=false".into(),
            "APT::Sandbox::User=root".into(),
            "Acquire::Languages=none".into(),
            "Acquire::Retries=3".into(),
            "Debug::NoLocking=true".into(),
        ];
        let mut command = Command::new("apt-get");
        command.args(settings.iter().flat_map(|setting| ["-o", setting])).args(["-q", "--yes"]).args(words);
        Ok(String::from_utf8_lossy(&run(command)?.stdout).into_owned())
    }

    /// The files of the packages that `wanted` need and the base doesn't have.
    fn fetch(&self, base: &Path, wanted: &[String]) -> Result<Vec<PathBuf>> {
        let lists = self.cache.path("apt/lists");
        if !std::fs::read_dir(&lists)?.flatten().any(|entry| entry.file_name().to_string_lossy().contains("Packages")) {
            self.apt(base, &["update"])?;
        }
        let names: Vec<&str> = wanted.iter().map(String::as_str).collect();
        self.apt(base, &[&["--download-only", "install"], &names[..]].concat())?;
        // With all there, nothing is left to fetch, but the plan names each package with its version.
        let plan = self.apt(base, &[&["--simulate", "install"], &names[..]].concat())?;
        let archives = self.cache.path("apt/cache/archives");
        let mut files = Vec::new();
        for line in plan.lines().filter_map(|line| line.strip_prefix("Inst ")) {
            // `name (version suite [architecture])`
            let mut words = line.split([' ', '(', ')']).filter(|word| !word.is_empty());
            let (name, version) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
            let start = format!("{name}_{}_", version.replace(':', "%3a"));
            let found = std::fs::read_dir(&archives)?
                .flatten()
                .find(|entry| entry.file_name().to_string_lossy().starts_with(&start));
            files.push(found.with_context(|| format!("apt has fetched no {start}"))?.path());
        }
        Ok(files)
    }

    /// Installs packages over the base and then runs a command there. `take` is given the folder with what has changed; or,
    /// with `only`, one with these files and what they are linked to alone.
    pub(crate) fn install(
        &self,
        packages: &[String],
        command: &str,
        only: &[String],
        take: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<()> {
        let base = self.base()?;
        let files = if packages.is_empty() { Vec::new() } else { self.fetch(&base, packages)? };
        let scratch = self.cache.scratch()?;
        for name in ["upper", "work", "root", "debs", "only"] {
            std::fs::create_dir(scratch.path().join(name))?;
        }
        for file in &files {
            std::fs::hard_link(file, scratch.path().join("debs").join(file.file_name().context("a name")?))?;
        }
        // In namespaces of its own: whatever happens, nothing stays mounted and nothing goes on running.
        let mut shell = Command::new("unshare");
        shell.args([
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "--uts",
            "--ipc",
            "sh",
            "-eu",
            "-c",
            INSTALL,
            "install",
        ]);
        shell.arg(&base).arg(scratch.path()).arg(command).arg(only.join(" "));
        shell.env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        shell.env("DEBIAN_FRONTEND", "noninteractive").env("LC_ALL", "C.UTF-8").env("HOME", "/root");
        run(shell).with_context(|| format!("install {}", packages.join(" ")))?;
        take(&scratch.path().join(if only.is_empty() { "upper" } else { "only" }))
    }
}

/// What happens in the namespaces: `INSTALL base scratch command only`.
const INSTALL: &str = r#"
base=$1 scratch=$2 command=$3 only=$4
root=$scratch/root
mount -t overlay overlay -o "lowerdir=$base,upperdir=$scratch/upper,workdir=$scratch/work,redirect_dir=off,metacopy=off,index=off" "$root"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mkdir -p "$root/debs" "$root/only"
mount --bind "$scratch/debs" "$root/debs"
mount --bind "$scratch/only" "$root/only"
printf '#!/bin/sh\nexit 101\n' > "$root/usr/sbin/policy-rc.d"
chmod 755 "$root/usr/sbin/policy-rc.d"
if [ -n "$(ls "$scratch/debs")" ]; then
  # Alternatives of manual pages that are cut want their folder nevertheless.
  mkdir -p "$root/usr/share/man/man1"
  chroot "$root" sh -c 'dpkg --force-depends --force-unsafe-io --unpack /debs/*.deb; dpkg --configure --pending || dpkg --configure --pending' >&2
fi
if [ -n "$command" ]; then chroot "$root" sh -euc "$command" >&2; fi
if [ -n "$only" ]; then
  chroot "$root" sh -eu -c '
    for file in $1; do
      cp -L --parents --preserve=mode "$file" /only
      ldd "$file" 2>/dev/null | grep -o "/[^ ]*" | while read -r library; do cp -L --parents --preserve=mode "$library" /only; done
    done' only "$only"
fi
rm "$root/usr/sbin/policy-rc.d"
umount "$root/debs" "$root/only"
rmdir "$root/debs" "$root/only"
rm -rf "$root"/var/cache/debconf/* "$root"/var/lib/dpkg/*-old "$root"/var/log/* "$root"/tmp/* "$root"/var/cache/apt/*
umount -R "$root/dev" "$root/proc"
umount "$root"
# `dev` and `proc` were mounted on, and are no part of what has changed.
rmdir "$scratch/upper/dev" "$scratch/upper/proc" 2>/dev/null || true
"#;
