//! Owns the door from outside: one file or key of a state, or all of it.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{FileType, Stat};

use crate::error::{Error, ErrorKind, Result};
use crate::ops::{Vyr, blocking};
use crate::state::{Inside, Mode, OnBusy, State, StateClass, StateError, StateHandle, StateKind, kind_of};

/// A file of a state, or the value of a key in one of kind `kv`, for reading.
///
/// # Errors
/// [`ErrorKind::NotFound`] for a state, file or key that isn't there; [`ErrorKind::Usage`] for a path that leads out.
pub async fn open(vyr: &Vyr, state: &str, path: &str) -> Result<Box<dyn io::Read + Send>> {
    let (handle, state) = reader(vyr, state).await?;
    if state.kind == StateKind::Kv {
        let key = path.to_owned();
        return blocking(move || {
            let value = handle.kv()?.get(&key).map_err(|e| match e.kind() {
                io::ErrorKind::InvalidInput => Error::new(ErrorKind::Usage, e),
                _ => StateError::io("read a key in", handle.data())(e).into(),
            })?;
            let missing = || {
                Error::new(ErrorKind::NotFound, format!("the state `{}` has no key `{key}`", state.name))
                    .hint(format_args!("`vyr state show {}` lists its keys", state.name))
            };
            Ok(Box::new(io::Cursor::new(value.ok_or_else(missing)?)) as Box<dyn io::Read + Send>)
        })
        .await;
    }
    let inside = Path::new(path);
    if inside.components().any(|part| !matches!(part, Component::Normal(_) | Component::CurDir)) {
        return Err(Error::new(ErrorKind::Usage, format!("`{path}` is not a path within a state"))
            .hint("write it as in `folder/file`"));
    }
    let (place, path, name) = (handle.data().to_owned(), inside.to_owned(), path.to_owned());
    blocking(move || {
        let opened = Inside::open(&place).and_then(|inside| inside.file(&path));
        let file = opened.map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => {
                Error::new(ErrorKind::NotFound, format!("the state `{}` has no file `{name}`", state.name))
                    .hint(format_args!("`vyr state show {}` lists its files", state.name))
            }
            _ => StateError::io("open", &place.join(&path))(e).into(),
        })?;
        Ok(Box::new(file) as Box<dyn io::Read + Send>)
    })
    .await
}

/// One file of a listing.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Listed {
    /// Below the state's folder.
    pub path: String,
    /// In bytes.
    pub size: u64,
}

/// The files of a state, sorted.
///
/// # Errors
/// [`ErrorKind::NotFound`].
pub async fn files(vyr: &Vyr, state: &str) -> Result<Vec<Listed>> {
    let (handle, _) = reader(vyr, state).await?;
    let data = handle.data().to_owned();
    blocking(move || {
        let mut found = Vec::new();
        walk(&data, &mut |_, path, look| {
            if kind_of(look) == FileType::RegularFile {
                found.push(Listed { path: path.to_string_lossy().into_owned(), size: look.st_size.unsigned_abs() });
            }
            Ok(())
        })?;
        found.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(found)
    })
    .await
}

/// Copies a state's files into the folder `to`, which must be empty or not there. Returns how many and how many bytes.
///
/// # Errors
/// [`ErrorKind::NotFound`]; [`ErrorKind::Usage`] for a folder with something in it.
pub async fn export(vyr: &Vyr, state: &str, to: PathBuf) -> Result<(u64, u64)> {
    let (handle, _) = reader(vyr, state).await?;
    let data = handle.data().to_owned();
    blocking(move || {
        fs::create_dir_all(&to).map_err(StateError::io("make the folder", &to))?;
        if fs::read_dir(&to).map_err(StateError::io("list", &to))?.next().is_some() {
            return Err(Error::new(ErrorKind::Usage, format!("the folder {} is not empty", to.display()))
                .hint("name one that isn't there yet"));
        }
        let mut sum = (0, 0);
        walk(&data, &mut |inside, path, look| {
            let place = to.join(path);
            match kind_of(look) {
                FileType::Directory => fs::create_dir(&place)?,
                FileType::RegularFile => {
                    let mut from = match inside.file(path) {
                        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
                        other => other?,
                    };
                    let bytes = io::copy(&mut from, &mut fs::File::create_new(&place)?)?;
                    sum = (sum.0 + 1, sum.1 + bytes);
                }
                _ => {}
            }
            Ok(())
        })?;
        Ok(sum)
    })
    .await
}

async fn reader(vyr: &Vyr, state: &str) -> Result<(std::sync::Arc<StateHandle>, State)> {
    let states = vyr.states().await?;
    let state = states.find(state).await?;
    if state.class == StateClass::Task {
        return Err(Error::new(
            ErrorKind::Usage,
            format!(
                "the state `{}` is of class task: each task has a folder of its own, which goes with it",
                state.name
            ),
        )
        .hint("create one of class node to keep something"));
    }
    if state.kind == StateKind::Kv {
        // What a crash left in the journal becomes files by the next writer, which is this one if nobody writes. One that
        // writes now brings its files up to date by itself, all the time.
        match states.attach(&state, "reader", Mode::ReadWrite, OnBusy::Refuse).await {
            Ok(handle) => drop(blocking(move || Ok(handle.release()?)).await?),
            Err(StateError::Busy { .. }) => {}
            Err(e) => return Err(e.into()),
        }
    }
    let handle = states.attach(&state, "reader", Mode::ReadOnly, OnBusy::Refuse).await?;
    Ok((handle, state))
}

/// All that is in a state's folder; what is gone meanwhile is left out.
fn walk(root: &Path, each: &mut dyn FnMut(&Inside, &Path, &Stat) -> io::Result<()>) -> Result<()> {
    let failed = |e| StateError::io("read", root)(e);
    let inside = Inside::open(root).map_err(failed)?;
    let walked = inside.walk(&mut |path, look| each(&inside, path, look).map(|()| true));
    Ok(walked.map_err(failed)?)
}
