//! Owns reading a file out of layers as a container would see them.

use std::fs::File;

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use super::below::{Below, below};
use super::beneath::{self, is_whiteout, kind};
use super::fault::{Attempted, Fault};
use super::name;
use super::tree::{MOST_LINKS, Tree};

/// Opens a regular file, links followed inside of the root; `None` where there is none.
pub(super) fn open_file(tree: &mut Tree<'_>, path: &[u8]) -> Result<Option<File>, Fault> {
    let mut path = path.to_vec();
    for _ in 0..=MOST_LINKS {
        let (folder, last) = name::split(&path);
        if matches!(last, b"" | b"." | b"..") {
            return Ok(None);
        }
        let Some(at) = tree.resolve(folder, false)? else {
            return Ok(None);
        };
        let mut found = None;
        if let Some(upper) = &at.upper {
            found = beneath::look(upper, last).attempted("look for it")?.map(|stat| (upper, stat));
        }
        if found.is_none()
            && let Below::Other(layer, stat) = below(&at.lower, last, tree.rights)?
        {
            found = Some((&at.lower[layer], stat));
        }
        let Some((inside, stat)) = found.filter(|(_, stat)| !is_whiteout(stat)) else {
            return Ok(None);
        };
        match kind(&stat) {
            FileType::RegularFile => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let file = rustix::fs::openat(inside, last, flags, Mode::empty()).attempted("open it")?;
                return Ok(Some(file.into()));
            }
            FileType::Symlink => {
                let target = beneath::link_target(inside, last).attempted("read a link")?;
                path = if target.starts_with(b"/") { target } else { name::join(&at.path, &target) };
            }
            _ => return Ok(None),
        }
    }
    Err(Errno::LOOP).attempted("follow its links")
}
