//! Owns the folder door of modules: the calls of WASI preview 1 that change what a state holds.

use wasmtime::{AsContextMut as _, Caller, Linker};
use wasmtime_wasi::p1::wasi_snapshot_preview1::{self as wasi, WasiSnapshotPreview1 as _};
use wiggle::GuestMemory;

use super::super::descriptors;
use super::super::run::State;
use super::{Doors, No};

const MODULE: &str = "wasi_snapshot_preview1";

// Numbers of WASI preview 1 (witx/p1/wasi_snapshot_preview1.witx): `errno`, `oflags`, `fdflags`, `rights`.
const IO: i32 = 29;
const NFILE: i32 = 41;
const NOSPC: i32 = 51;
const NOTSUP: i32 = 58;
const XDEV: i32 = 75;
const CREAT: i32 = 1;
const TRUNC: i32 = 8;
const APPEND: i32 = 1;
const FD_WRITE: i64 = 1 << 6;

/// The first folder that a guest is given has this number.
pub(in super::super) const FIRST_PREOPEN: u32 = 3;

impl From<No> for i32 {
    fn from(no: No) -> Self {
        match no {
            No::Space => NOSPC,
            No::CrossDevice => XDEV,
            No::Unsupported => NOTSUP,
            No::Io => IO,
            No::Descriptors => NFILE,
        }
    }
}

/// The guest's memory and everything else.
fn parts<'a>(caller: &'a mut Caller<'_, State>) -> wasmtime::Result<(GuestMemory<'a>, &'a mut State)> {
    let Some(memory) = caller.get_export("memory").and_then(wasmtime::Extern::into_memory) else {
        wasmtime::bail!("missing required memory export");
    };
    let fuel = caller.as_context_mut().hostcall_fuel();
    let (bytes, state) = memory.data_and_store_mut(caller);
    state.called = true;
    state.wasi.set_hostcall_fuel(fuel);
    Ok((GuestMemory::Unshared(bytes), state))
}

/// A path of the guest's; `None` for one that WASI itself refuses.
fn path(memory: &GuestMemory<'_>, at: i32, length: i32) -> Option<String> {
    let text = wiggle::GuestPtr::<str>::new((at.cast_unsigned(), length.cast_unsigned()));
    memory.as_cow_str(text).ok().map(std::borrow::Cow::into_owned)
}

fn word(memory: &GuestMemory<'_>, at: u32) -> Option<u32> {
    memory.read(wiggle::GuestPtr::<u32>::new(at)).ok()
}

/// How much a write will write at most: the first buffer that isn't empty, as the implementation does.
fn first_length(memory: &GuestMemory<'_>, buffers: i32, count: i32) -> u64 {
    let lengths = (0..count.cast_unsigned()).map_while(|n| {
        let at = buffers.cast_unsigned().checked_add(n.checked_mul(8)?)?;
        word(memory, at.checked_add(4)?)
    });
    lengths.into_iter().find(|length| *length > 0).unwrap_or(0).into()
}

async fn write(
    caller: &mut Caller<'_, State>,
    (fd, buffers, count, written): (i32, i32, i32, i32),
    offset: Option<i64>,
) -> wasmtime::Result<i32> {
    let (mut memory, state) = parts(caller)?;
    let mut room = None;
    if let Some(doors) = &mut state.doors {
        let length = first_length(&memory, buffers, count);
        let at = match offset {
            Some(offset) => Some(offset.cast_unsigned()),
            None => state.wasi.fd_tell(&mut memory, fd.into()).ok(),
        };
        match doors.writing(fd.cast_unsigned(), at, length) {
            Ok(made) => room = made,
            Err(no) => return Ok(no.into()),
        }
    }
    let wasi = &mut state.wasi;
    let errno = match offset {
        Some(offset) => wasi::fd_pwrite(wasi, &mut memory, fd, buffers, count, offset, written).await?,
        None => wasi::fd_write(wasi, &mut memory, fd, buffers, count, written).await?,
    };
    if let Some(room) = room {
        match word(&memory, written.cast_unsigned()) {
            Some(written) if errno == 0 => room.wrote(written.into()),
            _ => room.undo(),
        }
    }
    Ok(errno)
}

/// A call that removes something.
async fn remove(
    caller: &mut Caller<'_, State>,
    (fd, at, length): (i32, i32, i32),
    folder: bool,
) -> wasmtime::Result<i32> {
    let (mut memory, state) = parts(caller)?;
    let mut removal = None;
    if let (Some(doors), Some(path)) = (&state.doors, path(&memory, at, length)) {
        match doors.removing(fd.cast_unsigned(), &path) {
            Ok(found) => removal = found,
            Err(no) => return Ok(no.into()),
        }
    }
    let wasi = &mut state.wasi;
    let errno = match folder {
        true => wasi::path_remove_directory(wasi, &mut memory, fd, at, length).await?,
        false => wasi::path_unlink_file(wasi, &mut memory, fd, at, length).await?,
    };
    if let (0, Some(removal), Some(doors)) = (errno, removal, &state.doors) {
        doors.removed(&removal);
    }
    Ok(errno)
}

type OpenWords = (i32, i32, i32, i32, i32, i64, i64, i32, i32);

async fn open(caller: &mut Caller<'_, State>, words: OpenWords) -> wasmtime::Result<i32> {
    let (fd, lookup, at, length, oflags, rights, inheriting, fdflags, opened) = words;
    let (mut memory, state) = parts(caller)?;
    if !descriptors::are_left() {
        return Ok(No::Descriptors.into());
    }
    let mut opening = None;
    if let (Some(doors), Some(path)) = (&state.doors, path(&memory, at, length)) {
        let (create, truncate) = (oflags & CREAT != 0, oflags & TRUNC != 0);
        let how = (rights & FD_WRITE != 0, fdflags & APPEND != 0);
        match doors.opening(fd.cast_unsigned(), &path, (create, truncate), how) {
            Ok(found) => opening = found.map(|opening| (doors.to_be_truncated(&opening), opening)),
            Err(no) => return Ok(no.into()),
        }
    }
    let wasi = &mut state.wasi;
    let errno =
        wasi::path_open(wasi, &mut memory, fd, lookup, at, length, oflags, rights, inheriting, fdflags, opened).await?;
    if let (Some((truncated, opening)), Some(doors)) = (opening, &mut state.doors) {
        match word(&memory, opened.cast_unsigned()) {
            Some(number) if errno == 0 => {
                doors.gave_back(&opening, truncated);
                doors.opened(number, opening);
            }
            _ => doors.not_opened(&opening),
        }
    }
    Ok(errno)
}

async fn rename(
    caller: &mut Caller<'_, State>,
    (from_fd, from, from_length, to_fd, to, to_length): (i32, i32, i32, i32, i32, i32),
) -> wasmtime::Result<i32> {
    let (mut memory, state) = parts(caller)?;
    let mut renaming = None;
    if let (Some(doors), Some(from), Some(to)) =
        (&state.doors, path(&memory, from, from_length), path(&memory, to, to_length))
    {
        match doors.renaming((from_fd.cast_unsigned(), &from), (to_fd.cast_unsigned(), &to)) {
            Ok(found) => renaming = found,
            Err(no) => return Ok(no.into()),
        }
    }
    let wasi = &mut state.wasi;
    let errno = wasi::path_rename(wasi, &mut memory, from_fd, from, from_length, to_fd, to, to_length).await?;
    match (errno, renaming, &mut state.doors) {
        (0, Some(renaming), Some(doors)) => Ok(taken(doors.renamed(renaming))),
        _ => Ok(errno),
    }
}

/// What a guest hears of a file that it handed over.
fn taken(done: std::io::Result<()>) -> i32 {
    match done {
        Ok(()) => 0,
        Err(e) => {
            tracing::error!(error = %e, "a file of an outbox could not be taken; it stays there");
            if e.kind() == std::io::ErrorKind::StorageFull { NOSPC } else { IO }
        }
    }
}

async fn close(caller: &mut Caller<'_, State>, fd: i32) -> wasmtime::Result<i32> {
    let (mut memory, state) = parts(caller)?;
    let errno = wasi::fd_close(&mut state.wasi, &mut memory, fd).await?;
    match (errno, &mut state.doors) {
        (0, Some(doors)) => Ok(taken(doors.closed(fd.cast_unsigned()))),
        _ => Ok(errno),
    }
}

async fn renumber(caller: &mut Caller<'_, State>, from: i32, to: i32) -> wasmtime::Result<i32> {
    let (mut memory, state) = parts(caller)?;
    let errno = wasi::fd_renumber(&mut state.wasi, &mut memory, from, to).await?;
    match (errno, &mut state.doors) {
        (0, Some(doors)) if from != to => Ok(taken(doors.renumbered(from.cast_unsigned(), to.cast_unsigned()))),
        _ => Ok(errno),
    }
}

async fn resize(caller: &mut Caller<'_, State>, fd: i32, length: i64) -> wasmtime::Result<i32> {
    let (mut memory, state) = parts(caller)?;
    let mut room = None;
    if let Some(doors) = &state.doors {
        match doors.resizing(fd.cast_unsigned(), length.cast_unsigned()) {
            Ok(made) => room = made,
            Err(no) => return Ok(no.into()),
        }
    }
    let errno = wasi::fd_filestat_set_size(&mut state.wasi, &mut memory, fd, length).await?;
    if let Some(room) = room.filter(|_| errno != 0) {
        room.undo();
    }
    Ok(errno)
}

async fn make_folder(caller: &mut Caller<'_, State>, fd: i32, at: i32, length: i32) -> wasmtime::Result<i32> {
    let (mut memory, state) = parts(caller)?;
    let mut made = None;
    if let (Some(doors), Some(path)) = (&state.doors, path(&memory, at, length)) {
        match doors.making_folder(fd.cast_unsigned(), &path) {
            Ok(door) => made = door,
            Err(no) => return Ok(no.into()),
        }
    }
    let errno = wasi::path_create_directory(&mut state.wasi, &mut memory, fd, at, length).await?;
    if let (Some(door), Some(doors)) = (made.filter(|_| errno != 0), &state.doors) {
        doors.folder_not_made(door);
    }
    Ok(errno)
}

fn settled(doors: &Option<Box<Doors>>, fd: i32) -> Result<(), i32> {
    match doors {
        Some(doors) => doors.settle(fd.cast_unsigned()).map_err(Into::into),
        None => Ok(()),
    }
}

/// Puts the doors before the calls in `linker`, which has them already and allows shadowing.
pub(in super::super) fn add_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker.func_wrap_async(MODULE, "fd_write", |mut caller: Caller<'_, State>, words: (i32, i32, i32, i32)| {
        Box::new(async move { write(&mut caller, words, None).await })
    })?;
    linker.func_wrap_async(
        MODULE,
        "fd_pwrite",
        |mut caller: Caller<'_, State>, (fd, buffers, count, offset, written): (i32, i32, i32, i64, i32)| {
            Box::new(async move { write(&mut caller, (fd, buffers, count, written), Some(offset)).await })
        },
    )?;
    linker.func_wrap_async(MODULE, "path_open", |mut caller: Caller<'_, State>, words: OpenWords| {
        Box::new(async move { open(&mut caller, words).await })
    })?;
    linker.func_wrap_async(MODULE, "fd_close", |mut caller: Caller<'_, State>, (fd,): (i32,)| {
        Box::new(async move { close(&mut caller, fd).await })
    })?;
    linker.func_wrap_async(MODULE, "fd_renumber", |mut caller: Caller<'_, State>, (from, to): (i32, i32)| {
        Box::new(async move { renumber(&mut caller, from, to).await })
    })?;
    linker.func_wrap_async(
        MODULE,
        "fd_filestat_set_size",
        |mut caller: Caller<'_, State>, (fd, length): (i32, i64)| {
            Box::new(async move { resize(&mut caller, fd, length).await })
        },
    )?;
    linker.func_wrap(
        MODULE,
        "fd_fdstat_set_flags",
        |mut caller: Caller<'_, State>, fd: i32, flags: i32| -> wasmtime::Result<i32> {
            let (mut memory, state) = parts(&mut caller)?;
            let errno = wasi::fd_fdstat_set_flags(&mut state.wasi, &mut memory, fd, flags)?;
            if let (0, Some(doors)) = (errno, &mut state.doors) {
                doors.set_append(fd.cast_unsigned(), flags & APPEND != 0);
            }
            Ok(errno)
        },
    )?;
    linker.func_wrap_async(MODULE, "path_unlink_file", |mut caller: Caller<'_, State>, words: (i32, i32, i32)| {
        Box::new(async move { remove(&mut caller, words, false).await })
    })?;
    linker.func_wrap_async(
        MODULE,
        "path_remove_directory",
        |mut caller: Caller<'_, State>, words: (i32, i32, i32)| {
            Box::new(async move { remove(&mut caller, words, true).await })
        },
    )?;
    linker.func_wrap_async(
        MODULE,
        "path_create_directory",
        |mut caller: Caller<'_, State>, (fd, at, length): (i32, i32, i32)| {
            Box::new(async move { make_folder(&mut caller, fd, at, length).await })
        },
    )?;
    linker.func_wrap_async(
        MODULE,
        "path_rename",
        |mut caller: Caller<'_, State>, words: (i32, i32, i32, i32, i32, i32)| {
            Box::new(async move { rename(&mut caller, words).await })
        },
    )?;
    add_links(linker)?;
    add_looks(linker)
}

/// What states don't have.
fn add_links(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker.func_wrap_async(
        MODULE,
        "path_link",
        |mut caller: Caller<'_, State>, words: (i32, i32, i32, i32, i32, i32, i32)| {
            Box::new(async move {
                let (from_fd, flags, from, from_length, to_fd, to, to_length) = words;
                let (mut memory, state) = parts(&mut caller)?;
                let folders = [from_fd.cast_unsigned(), to_fd.cast_unsigned()];
                if let Some(Err(no)) = state.doors.as_ref().map(|doors| doors.linking(&folders)) {
                    return Ok(no.into());
                }
                let wasi = &mut state.wasi;
                wasi::path_link(wasi, &mut memory, from_fd, flags, from, from_length, to_fd, to, to_length).await
            })
        },
    )?;
    linker.func_wrap_async(
        MODULE,
        "path_symlink",
        |mut caller: Caller<'_, State>, (from, from_length, fd, to, to_length): (i32, i32, i32, i32, i32)| {
            Box::new(async move {
                let (mut memory, state) = parts(&mut caller)?;
                if let Some(Err(no)) = state.doors.as_ref().map(|doors| doors.linking(&[fd.cast_unsigned()])) {
                    return Ok(no.into());
                }
                wasi::path_symlink(&mut state.wasi, &mut memory, from, from_length, fd, to, to_length).await
            })
        },
    )?;
    Ok(())
}

/// Calls that change nothing, but look: at files that keys may not have come to yet.
fn add_looks(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker.func_wrap_async(
        MODULE,
        "fd_readdir",
        |mut caller: Caller<'_, State>, (fd, buffer, length, cookie, used): (i32, i32, i32, i64, i32)| {
            Box::new(async move {
                let (mut memory, state) = parts(&mut caller)?;
                if let Err(errno) = settled(&state.doors, fd) {
                    return Ok(errno);
                }
                wasi::fd_readdir(&mut state.wasi, &mut memory, fd, buffer, length, cookie, used).await
            })
        },
    )?;
    linker.func_wrap_async(
        MODULE,
        "path_filestat_get",
        |mut caller: Caller<'_, State>, (fd, flags, at, length, stat): (i32, i32, i32, i32, i32)| {
            Box::new(async move {
                let (mut memory, state) = parts(&mut caller)?;
                if let Err(errno) = settled(&state.doors, fd) {
                    return Ok(errno);
                }
                wasi::path_filestat_get(&mut state.wasi, &mut memory, fd, flags, at, length, stat).await
            })
        },
    )?;
    Ok(())
}
