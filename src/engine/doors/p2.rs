//! Owns the folder door of components: the calls of `wasi:filesystem` 0.2 that change what a state holds.

use wasmtime::component::{HasData, Linker, Resource};
use wasmtime_wasi::filesystem::{Descriptor, WasiFilesystemCtxView, WasiFilesystemView as _};
use wasmtime_wasi::p2::bindings::filesystem::preopens;
use wasmtime_wasi::p2::bindings::filesystem::types::{
    self, Advice, DescriptorFlags, DescriptorStat, DescriptorType, DirectoryEntry, DirectoryEntryStream, ErrorCode,
    Filesize, HostDescriptor, HostDirectoryEntryStream, MetadataHashValue, NewTimestamp, OpenFlags, PathFlags,
};
use wasmtime_wasi::p2::{DynInputStream, DynOutputStream, FsError, FsResult};

use super::super::descriptors;
use super::super::run::State;
use super::stream::CountedStream;
use super::{Doors, No};

/// WASI's own implementation, with the doors before it.
pub(super) struct View<'a> {
    wasi: WasiFilesystemCtxView<'a>,
    doors: Option<&'a mut Doors>,
}

struct HasDoors;

impl HasData for HasDoors {
    type Data<'a> = View<'a>;
}

fn view(state: &mut State) -> View<'_> {
    state.called = true;
    View { wasi: state.wasi.filesystem(), doors: state.doors.as_deref_mut() }
}

/// Puts the doors before the calls in `linker`, which has them already and allows shadowing.
pub(in super::super) fn add_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    types::add_to_linker::<State, HasDoors>(linker, view)?;
    preopens::add_to_linker::<State, HasDoors>(linker, view)
}

impl From<No> for FsError {
    fn from(no: No) -> Self {
        match no {
            No::Space => ErrorCode::InsufficientSpace,
            No::CrossDevice => ErrorCode::CrossDevice,
            No::Unsupported => ErrorCode::Unsupported,
            No::Io => ErrorCode::Io,
            // The interface has no error for that.
            No::Descriptors => ErrorCode::InsufficientMemory,
        }
        .into()
    }
}

fn taken(done: std::io::Result<()>) -> FsResult<()> {
    done.map_err(|e| {
        tracing::error!(error = %e, "a file of an outbox could not be taken; it stays there");
        e.into()
    })
}

type File = Resource<Descriptor>;

impl View<'_> {
    fn settle(&self, folder: &File) -> FsResult<()> {
        self.doors.as_ref().map_or(Ok(()), |doors| Ok(doors.settle(folder.rep())?))
    }

    fn counted(
        &mut self,
        file: u32,
        at: Option<Filesize>,
        stream: Resource<DynOutputStream>,
    ) -> FsResult<Resource<DynOutputStream>> {
        let Some((door, inode)) = self.doors.as_ref().and_then(|doors| doors.stream(file)) else { return Ok(stream) };
        let inner = self.wasi.table.delete(stream)?;
        let counted: DynOutputStream = Box::new(CountedStream::new(inner, door, inode, at));
        Ok(self.wasi.table.push(counted)?)
    }
}

impl preopens::Host for View<'_> {
    fn get_directories(&mut self) -> wasmtime::Result<Vec<(File, String)>> {
        let folders = preopens::Host::get_directories(&mut self.wasi)?;
        if let Some(doors) = &mut self.doors {
            for (folder, path) in &folders {
                if let Some(handle) = doors.by_path(path) {
                    doors.preopened(folder.rep(), &handle);
                }
            }
        }
        Ok(folders)
    }
}

impl types::Host for View<'_> {
    fn convert_error_code(&mut self, error: FsError) -> wasmtime::Result<ErrorCode> {
        types::Host::convert_error_code(&mut self.wasi, error)
    }

    fn filesystem_error_code(&mut self, error: Resource<wasmtime::Error>) -> wasmtime::Result<Option<ErrorCode>> {
        types::Host::filesystem_error_code(&mut self.wasi, error)
    }
}

impl HostDescriptor for View<'_> {
    async fn write(&mut self, file: File, bytes: Vec<u8>, offset: Filesize) -> FsResult<Filesize> {
        let length = bytes.len() as u64;
        let room = match &self.doors {
            Some(doors) => doors.writing(file.rep(), Some(offset), length)?,
            None => None,
        };
        let written = self.wasi.write(file, bytes, offset).await;
        match (&room, &written) {
            (Some(room), Ok(written)) => room.wrote(*written),
            (Some(room), Err(_)) => room.undo(),
            (None, _) => {}
        }
        written
    }

    fn write_via_stream(&mut self, file: File, offset: Filesize) -> FsResult<Resource<DynOutputStream>> {
        let number = file.rep();
        let stream = self.wasi.write_via_stream(file, offset)?;
        self.counted(number, Some(offset), stream)
    }

    fn append_via_stream(&mut self, file: File) -> FsResult<Resource<DynOutputStream>> {
        let number = file.rep();
        let stream = self.wasi.append_via_stream(file)?;
        self.counted(number, None, stream)
    }

    async fn set_size(&mut self, file: File, size: Filesize) -> FsResult<()> {
        let room = match &self.doors {
            Some(doors) => doors.resizing(file.rep(), size)?,
            None => None,
        };
        let done = self.wasi.set_size(file, size).await;
        if let (Some(room), Err(_)) = (room, &done) {
            room.undo();
        }
        done
    }

    async fn open_at(
        &mut self,
        folder: File,
        how: PathFlags,
        path: String,
        open: OpenFlags,
        flags: DescriptorFlags,
    ) -> FsResult<File> {
        if !descriptors::are_left() {
            return Err(No::Descriptors.into());
        }
        let Some(doors) = &mut self.doors else { return self.wasi.open_at(folder, how, path, open, flags).await };
        let wanted = (open.contains(OpenFlags::CREATE), open.contains(OpenFlags::TRUNCATE));
        let writes = flags.contains(DescriptorFlags::WRITE);
        let Some(opening) = doors.opening(folder.rep(), &path, wanted, (writes, false))? else {
            return self.wasi.open_at(folder, how, path, open, flags).await;
        };
        let truncated = doors.to_be_truncated(&opening);
        match self.wasi.open_at(folder, how, path, open, flags).await {
            Ok(file) => {
                doors.gave_back(&opening, truncated);
                doors.opened(file.rep(), opening);
                Ok(file)
            }
            Err(error) => {
                doors.not_opened(&opening);
                Err(error)
            }
        }
    }

    fn drop(&mut self, file: File) -> wasmtime::Result<()> {
        let number = file.rep();
        HostDescriptor::drop(&mut self.wasi, file)?;
        if let Some(doors) = &mut self.doors
            && let Err(e) = doors.closed(number)
        {
            // The guest can't be told: the interface has no error here. The file stays where it is.
            tracing::error!(error = %e, "a file of an outbox could not be taken; it stays there");
        }
        Ok(())
    }

    async fn create_directory_at(&mut self, folder: File, path: String) -> FsResult<()> {
        let made = match &self.doors {
            Some(doors) => doors.making_folder(folder.rep(), &path)?,
            None => None,
        };
        let done = self.wasi.create_directory_at(folder, path).await;
        if let (Some(door), Err(_), Some(doors)) = (made, &done, &self.doors) {
            doors.folder_not_made(door);
        }
        done
    }

    async fn remove_directory_at(&mut self, folder: File, path: String) -> FsResult<()> {
        let removal = match &self.doors {
            Some(doors) => doors.removing(folder.rep(), &path)?,
            None => None,
        };
        self.wasi.remove_directory_at(folder, path).await?;
        if let (Some(removal), Some(doors)) = (removal, &self.doors) {
            doors.removed(&removal);
        }
        Ok(())
    }

    async fn unlink_file_at(&mut self, folder: File, path: String) -> FsResult<()> {
        let removal = match &self.doors {
            Some(doors) => doors.removing(folder.rep(), &path)?,
            None => None,
        };
        self.wasi.unlink_file_at(folder, path).await?;
        if let (Some(removal), Some(doors)) = (removal, &self.doors) {
            doors.removed(&removal);
        }
        Ok(())
    }

    async fn rename_at(&mut self, folder: File, path: String, to_folder: File, to: String) -> FsResult<()> {
        let renaming = match &self.doors {
            Some(doors) => doors.renaming((folder.rep(), &path), (to_folder.rep(), &to))?,
            None => None,
        };
        self.wasi.rename_at(folder, path, to_folder, to).await?;
        match (renaming, &mut self.doors) {
            (Some(renaming), Some(doors)) => taken(doors.renamed(renaming)),
            _ => Ok(()),
        }
    }

    async fn link_at(&mut self, folder: File, how: PathFlags, path: String, to: File, new: String) -> FsResult<()> {
        if let Some(doors) = &self.doors {
            doors.linking(&[folder.rep(), to.rep()])?;
        }
        self.wasi.link_at(folder, how, path, to, new).await
    }

    async fn symlink_at(&mut self, folder: File, path: String, new: String) -> FsResult<()> {
        if let Some(doors) = &self.doors {
            doors.linking(&[folder.rep()])?;
        }
        self.wasi.symlink_at(folder, path, new).await
    }

    async fn read_directory(&mut self, folder: File) -> FsResult<Resource<DirectoryEntryStream>> {
        self.settle(&folder)?;
        self.wasi.read_directory(folder).await
    }

    async fn stat_at(&mut self, folder: File, how: PathFlags, path: String) -> FsResult<DescriptorStat> {
        self.settle(&folder)?;
        self.wasi.stat_at(folder, how, path).await
    }

    // What follows changes nothing that is counted.

    fn read_via_stream(&mut self, file: File, offset: Filesize) -> FsResult<Resource<DynInputStream>> {
        self.wasi.read_via_stream(file, offset)
    }

    async fn advise(&mut self, file: File, offset: Filesize, length: Filesize, advice: Advice) -> FsResult<()> {
        self.wasi.advise(file, offset, length, advice).await
    }

    async fn sync_data(&mut self, file: File) -> FsResult<()> {
        self.wasi.sync_data(file).await
    }

    async fn get_flags(&mut self, file: File) -> FsResult<DescriptorFlags> {
        self.wasi.get_flags(file).await
    }

    async fn get_type(&mut self, file: File) -> FsResult<DescriptorType> {
        self.wasi.get_type(file).await
    }

    async fn set_times(&mut self, file: File, access: NewTimestamp, modified: NewTimestamp) -> FsResult<()> {
        self.wasi.set_times(file, access, modified).await
    }

    async fn read(&mut self, file: File, length: Filesize, offset: Filesize) -> FsResult<(Vec<u8>, bool)> {
        self.wasi.read(file, length, offset).await
    }

    async fn sync(&mut self, file: File) -> FsResult<()> {
        self.wasi.sync(file).await
    }

    async fn stat(&mut self, file: File) -> FsResult<DescriptorStat> {
        self.wasi.stat(file).await
    }

    async fn set_times_at(
        &mut self,
        folder: File,
        how: PathFlags,
        path: String,
        access: NewTimestamp,
        modified: NewTimestamp,
    ) -> FsResult<()> {
        self.wasi.set_times_at(folder, how, path, access, modified).await
    }

    async fn readlink_at(&mut self, folder: File, path: String) -> FsResult<String> {
        self.wasi.readlink_at(folder, path).await
    }

    async fn is_same_object(&mut self, a: File, b: File) -> wasmtime::Result<bool> {
        self.wasi.is_same_object(a, b).await
    }

    async fn metadata_hash(&mut self, file: File) -> FsResult<MetadataHashValue> {
        self.wasi.metadata_hash(file).await
    }

    async fn metadata_hash_at(&mut self, folder: File, how: PathFlags, path: String) -> FsResult<MetadataHashValue> {
        self.wasi.metadata_hash_at(folder, how, path).await
    }
}

impl HostDirectoryEntryStream for View<'_> {
    async fn read_directory_entry(
        &mut self,
        stream: Resource<DirectoryEntryStream>,
    ) -> FsResult<Option<DirectoryEntry>> {
        self.wasi.read_directory_entry(stream).await
    }

    fn drop(&mut self, stream: Resource<DirectoryEntryStream>) -> wasmtime::Result<()> {
        HostDirectoryEntryStream::drop(&mut self.wasi, stream)
    }
}
