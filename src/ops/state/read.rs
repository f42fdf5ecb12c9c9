//! Owns the door from outside: one file or key of a state, or all of it.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use crate::error::{Error, ErrorKind, Result};
use crate::ops::{Vyr, blocking};
use crate::state::{Mode, OnBusy, State, StateClass, StateError, StateHandle, StateKind};

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
    let place = handle.data().join(inside);
    let name = path.to_owned();
    blocking(move || {
        let missing = |e: io::Error| match e.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
                Error::new(ErrorKind::NotFound, format!("the state `{}` has no file `{name}`", state.name))
                    .hint(format_args!("`vyr state show {}` lists its files", state.name))
            }
            _ => StateError::io("open", &place)(e).into(),
        };
        // Whatever stands there, nothing is followed out of the state.
        let found = fs::symlink_metadata(&place).map_err(missing)?;
        if !found.is_file() {
            return Err(Error::new(
                ErrorKind::NotFound,
                format!("`{name}` is not a file of the state `{}`", state.name),
            ));
        }
        Ok(Box::new(fs::File::open(&place).map_err(missing)?) as Box<dyn io::Read + Send>)
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
        walk(&data, Path::new(""), &mut |path, metadata| {
            if metadata.is_file() {
                found.push(Listed { path: path.to_string_lossy().into_owned(), size: metadata.len() });
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
        walk(&data, Path::new(""), &mut |path, metadata| {
            let place = to.join(path);
            if metadata.is_dir() {
                fs::create_dir(&place).map_err(StateError::io("make the folder", &place))?;
            } else if metadata.is_file() {
                let bytes = fs::copy(data.join(path), &place).map_err(StateError::io("write", &place))?;
                sum = (sum.0 + 1, sum.1 + bytes);
            }
            Ok(())
        })?;
        Ok(sum)
    })
    .await
}

async fn reader(vyr: &Vyr, state: &str) -> Result<(std::sync::Arc<StateHandle>, State)> {
    let states = vyr.states().await?;
    let state = states.get(state).await?;
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
    let handle = states.attach(&state, "reader", Mode::ReadOnly, OnBusy::Refuse).await?;
    Ok((handle, state))
}

fn walk(root: &Path, below: &Path, each: &mut impl FnMut(&Path, &fs::Metadata) -> Result<()>) -> Result<()> {
    let folder = root.join(below);
    let failed = |e| StateError::io("list", &folder)(e);
    for item in fs::read_dir(&folder).map_err(failed)? {
        let item = item.map_err(failed)?;
        let metadata = match item.metadata() {
            Ok(metadata) => metadata,
            // A writer may be at work.
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(failed(e).into()),
        };
        let path = below.join(item.file_name());
        each(&path, &metadata)?;
        if metadata.is_dir() {
            walk(root, &path, each)?;
        }
    }
    Ok(())
}
