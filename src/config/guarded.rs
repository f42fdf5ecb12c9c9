//! Owns the question whether a file that decides what is let in is this user's alone to change: it belongs to this user or to
//! root, and neither its group nor everybody may write it. Who may read it is another matter.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

/// Why a file isn't opened.
#[derive(Debug)]
pub(crate) enum Unfit {
    /// The system's own reason.
    Io(io::Error),
    /// Somebody else may change it.
    Open {
        /// Who may.
        why: String,
        /// What to do.
        next: String,
    },
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(e) => e.fmt(f),
            Self::Open { why, .. } => f.write_str(why),
        }
    }
}

impl From<io::Error> for Unfit {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Opens a file that nobody but this user and root may change.
///
/// # Errors
/// [`Unfit`].
pub(crate) fn open_guarded(path: &Path) -> Result<File, Unfit> {
    let file = File::open(path)?;
    // What was opened is what is looked at: the name may mean another one by now.
    let look = file.metadata()?;
    fits(path, look.uid(), look.permissions().mode(), rustix::process::geteuid().as_raw())?;
    Ok(file)
}

fn fits(path: &Path, owner: u32, mode: u32, own: u32) -> Result<(), Unfit> {
    let shown = path.display();
    if owner != own && owner != 0 {
        return Err(Unfit::Open {
            why: format!("it belongs to user {owner}, who may change it, and not to user {own} or root"),
            next: format!("run this as its owner, copy it to a file of your own, or as root `chown {own} {shown}`"),
        });
    }
    let who = match (mode & 0o020 != 0, mode & 0o002 != 0) {
        (_, true) => "everybody",
        (true, false) => "its group",
        (false, false) => return Ok(()),
    };
    Err(Unfit::Open {
        why: format!("{who} may change it (mode {:04o})", mode & 0o7777),
        next: format!("take that right away: `chmod go-w {shown}`"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_user_and_root_may_change_it() {
        let asked = |owner, mode| fits(Path::new("/x"), owner, mode, 1000);
        for (owner, mode) in [(1000, 0o600), (1000, 0o644), (1000, 0o755), (0, 0o644), (0, 0o640)] {
            assert!(asked(owner, mode).is_ok(), "{owner} {mode:o}");
        }
        for (owner, mode, word) in [
            (1001, 0o600, "user 1001"),
            (1000, 0o664, "its group"),
            (1000, 0o602, "everybody"),
            (0, 0o666, "everybody"),
        ] {
            let Err(Unfit::Open { why, next }) = asked(owner, mode) else { panic!("{owner} {mode:o}") };
            assert!(why.contains(word) && next.contains("/x"), "{why} {next}");
        }
        // Root's own, too: another user's file is that user's.
        assert!(fits(Path::new("/x"), 1000, 0o600, 0).is_err());
    }

    #[test]
    fn what_is_opened_is_looked_at() {
        let folder = tempfile::tempdir().expect("tempdir");
        let path = folder.path().join("file");
        std::fs::write(&path, "x").expect("written");
        let set = |mode| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("set");
        set(0o600);
        assert!(open_guarded(&path).is_ok());
        set(0o620);
        assert!(matches!(open_guarded(&path), Err(Unfit::Open { .. })));
        assert!(matches!(open_guarded(&folder.path().join("none")), Err(Unfit::Io(_))));
    }
}
