//! Owns reading a tar stream: entry by entry, each counted before anything is done for it, nothing larger than a bound held
//! in memory whatever the headers claim.
//!
//! The `tar` crate reads names and extended headers of any length into memory, writes holes out as zeros, and doesn't read
//! the sparse files of POSIX archives; all three matter where archives come from strangers.

use std::io::{self, BufRead};

use super::budget::Budget;
use super::fault::Fault;
use super::header::{self, BLOCK, Block, Header, Kind};
use super::pax::{self, Extensions, Sparse};

/// The most that a name or an extended header may hold, in bytes; Go's `archive/tar` has the same.
const LARGEST_EXTENSION: u64 = 1 << 20;
/// The most that all of one entry may hold together, in bytes with their headers.
const LARGEST_EXTENSIONS: u64 = 2 << 20;
/// The most pieces of one sparse file.
const MOST_PIECES: usize = 1 << 20;

/// One entry.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) header: Header,
    /// The pieces of a sparse file, in order: offset and length. `header.size` is then its size with the holes.
    pub(super) pieces: Option<Vec<(u64, u64)>>,
}

/// A tar stream.
#[derive(Debug)]
pub(super) struct Archive<'a, R> {
    from: R,
    budget: &'a Budget<'a>,
    /// What the stream still holds of the entry's data, and of the padding after it.
    data: u64,
    padding: u64,
}

impl<'a, R: BufRead> Archive<'a, R> {
    pub(super) fn new(from: R, budget: &'a Budget<'a>) -> Self {
        Self { from, budget, data: 0, padding: 0 }
    }

    /// The next entry, `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<Entry>, Fault> {
        let mut extensions = Extensions::default();
        let mut long_name = None;
        let mut long_target = None;
        let mut extended = 0;
        loop {
            self.skip_rest()?;
            let first = self.block()?;
            let Some(block) = first.filter(|block| block.iter().any(|b| *b != 0)) else {
                if extended > 0 {
                    return Err(Fault::Archive("it ends after an extended header"));
                }
                // Two empty blocks are the end, and so is the stream's, with one or with none.
                return match first {
                    Some(_) if self.block()?.is_some_and(|next| next.iter().any(|b| *b != 0)) => {
                        Err(Fault::Archive("an empty block is followed by one that isn't"))
                    }
                    _ => Ok(None),
                };
            };
            if !header::sum_is_right(&block) {
                return Err(Fault::Archive("a header's sum is wrong"));
            }
            if matches!(block[156], b'x' | b'L' | b'K') {
                // Empty ones count too: there may be any number before one entry.
                extended += BLOCK as u64 + extension_size(&block)?;
                if extended > LARGEST_EXTENSIONS {
                    return Err(Fault::Archive("the extended headers of one entry are larger than 2 MiB together"));
                }
            }
            match block[156] {
                b'x' => extensions.take(&self.extension(&block)?).map_err(Fault::Archive)?,
                // What engines built on Go's archive/tar do: global records are read and don't change any file.
                b'g' => drop(pax::records(&self.extension(&block)?).map_err(Fault::Archive)?),
                b'L' => long_name = Some(header::text(&self.extension(&block)?).to_vec()),
                b'K' => long_target = Some(header::text(&self.extension(&block)?).to_vec()),
                _ => {
                    let mut header = header::read(&block).map_err(Fault::Archive)?;
                    let size = extensions.size.unwrap_or(header.size);
                    header.name = long_name.unwrap_or(header.name);
                    header.target = long_target.unwrap_or(header.target);
                    extensions.apply(&mut header);
                    // Before POSIX a folder was a file whose name ends so: the whole name, which may be longer than the header.
                    if block[156] == 0 && header.name.ends_with(b"/") {
                        header.kind = Kind::Folder;
                    }
                    return self.start(&block, header, size, extensions.sparse.take()).map(Some);
                }
            }
        }
    }

    /// Counts the entry and finds where its data lies.
    fn start(
        &mut self,
        block: &Block,
        mut header: Header,
        stored: u64,
        sparse: Option<Sparse>,
    ) -> Result<Entry, Fault> {
        self.budget.entry()?;
        header.size = 0;
        if header.kind != Kind::File {
            // Nothing else has data, whatever its size says; Go's reader holds it so too.
            return Ok(Entry { header, pieces: None });
        }
        self.expect(stored);
        header.size = stored;
        let mut pieces = None;
        if block[156] == b'S' {
            header.size = u64::try_from(header::number(&block[483..495]).map_err(Fault::Archive)?)
                .map_err(|_| Fault::Archive("its size is negative"))?;
            pieces = Some(self.gnu_map(block)?);
        } else if let Some(sparse) = sparse {
            header.size = sparse.real_size.ok_or(Fault::Archive("a sparse file without a size"))?;
            let numbers = if sparse.major == Some(1) { self.map_in_data()? } else { sparse.map };
            pieces = Some(pairs(&numbers)?);
        }
        if let Some(pieces) = &pieces {
            well_ordered(pieces, header.size, self.data)?;
        }
        self.budget.bytes(header.size)?;
        Ok(Entry { header, pieces })
    }

    /// Gives out the data of the entry: offset in the file, and bytes.
    pub(super) fn data(
        &mut self,
        pieces: Option<&[(u64, u64)]>,
        mut give: impl FnMut(u64, &[u8]) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let whole = [(0, self.data)];
        for &(offset, length) in pieces.unwrap_or(&whole) {
            let mut done = 0;
            while done < length {
                let buffer = self.fill()?;
                let some = buffer.len().min(usize::try_from(length - done).unwrap_or(usize::MAX));
                if some == 0 {
                    return Err(short());
                }
                give(offset + done, &buffer[..some])?;
                self.from.consume(some);
                done += some as u64;
                self.data -= some as u64;
            }
        }
        Ok(())
    }

    /// Reads what follows the end, which the diff id covers too.
    pub(super) fn finish(mut self) -> Result<R, Fault> {
        loop {
            let some = self.fill()?.len();
            if some == 0 {
                return Ok(self.from);
            }
            self.budget.bytes(some as u64)?;
            self.from.consume(some);
        }
    }

    /// What can be read now. Every entry comes by here, and every buffer.
    fn fill(&mut self) -> Result<&[u8], Fault> {
        self.budget.wanted()?;
        self.from.fill_buf().map_err(Fault::Stream)
    }

    fn expect(&mut self, stored: u64) {
        self.data = stored;
        self.padding = (BLOCK as u64 - stored % BLOCK as u64) % BLOCK as u64;
    }

    fn skip_rest(&mut self) -> Result<(), Fault> {
        // Counted with the entry, if anybody wanted it or not.
        let mut rest = self.data.saturating_add(self.padding);
        while rest > 0 {
            let buffer = self.fill()?;
            let some = buffer.len().min(usize::try_from(rest).unwrap_or(usize::MAX));
            if some == 0 {
                return Err(short());
            }
            self.from.consume(some);
            rest -= some as u64;
        }
        self.data = 0;
        self.padding = 0;
        Ok(())
    }

    /// One block; `None` where the stream ends before it.
    fn block(&mut self) -> Result<Option<Block>, Fault> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            let buffer = self.fill()?;
            if buffer.is_empty() {
                return if filled == 0 { Ok(None) } else { Err(short()) };
            }
            let some = buffer.len().min(BLOCK - filled);
            block[filled..filled + some].copy_from_slice(&buffer[..some]);
            self.from.consume(some);
            filled += some;
        }
        Ok(Some(block))
    }

    /// The data of a header that extends the next.
    fn extension(&mut self, block: &Block) -> Result<Vec<u8>, Fault> {
        let size = extension_size(block)?;
        self.budget.bytes(size + BLOCK as u64)?;
        self.expect(size);
        let mut data = Vec::new();
        self.data(None, |_, some| {
            data.extend_from_slice(some);
            Ok(())
        })?;
        Ok(data)
    }

    /// The map of GNU tar's own form: four pieces in the header, twenty-one in each block that follows.
    fn gnu_map(&mut self, block: &Block) -> Result<Vec<(u64, u64)>, Fault> {
        let mut pieces = Vec::new();
        let mut more = take_pieces(&block[386..482], &mut pieces)? && block[482] != 0;
        while more {
            let next = self.block()?.ok_or_else(short)?;
            self.budget.bytes(BLOCK as u64)?;
            more = take_pieces(&next[..504], &mut pieces)? && next[504] != 0;
            if pieces.len() > MOST_PIECES {
                return Err(Fault::Archive("a sparse file has more than a million pieces"));
            }
        }
        Ok(pieces)
    }

    /// The map of the form 1.0: lines of decimal numbers before the data, padded to a block.
    fn map_in_data(&mut self) -> Result<Vec<u64>, Fault> {
        let mut numbers = Vec::new();
        let mut wanted = None;
        let mut line: Vec<u8> = Vec::new();
        while wanted.is_none_or(|wanted| numbers.len() < wanted) {
            if self.data < BLOCK as u64 {
                return Err(Fault::Archive("a sparse file's map is cut off"));
            }
            self.budget.bytes(BLOCK as u64)?;
            let block = self.block()?.ok_or_else(short)?;
            self.data -= BLOCK as u64;
            for byte in block {
                if byte != b'\n' {
                    if line.len() > 20 {
                        return Err(Fault::Archive("a sparse file's map can't be read"));
                    }
                    line.push(byte);
                    continue;
                }
                let number = pax::decimal(&line).map_err(Fault::Archive)?;
                line.clear();
                match wanted {
                    None => {
                        let pieces = usize::try_from(number).unwrap_or(usize::MAX);
                        if pieces > MOST_PIECES {
                            return Err(Fault::Archive("a sparse file has more than a million pieces"));
                        }
                        wanted = Some(pieces * 2);
                    }
                    Some(_) => numbers.push(number),
                }
                if wanted.is_some_and(|wanted| numbers.len() >= wanted) {
                    break;
                }
            }
        }
        Ok(numbers)
    }
}

/// The size of a header that extends the next.
fn extension_size(block: &Block) -> Result<u64, Fault> {
    let size = header::number(&block[124..136]).map_err(Fault::Archive)?;
    let size = u64::try_from(size).map_err(|_| Fault::Archive("its size is negative"))?;
    if size > LARGEST_EXTENSION {
        return Err(Fault::Archive("an extended header is larger than 1 MiB"));
    }
    Ok(size)
}

fn short() -> Fault {
    Fault::Stream(io::Error::new(io::ErrorKind::UnexpectedEof, "the archive ends in the middle of an entry"))
}

/// Takes pieces out of a part of a header; false at one that is empty, which is the last.
fn take_pieces(fields: &[u8], pieces: &mut Vec<(u64, u64)>) -> Result<bool, Fault> {
    for field in fields.chunks_exact(24) {
        if field[0] == 0 {
            return Ok(false);
        }
        let number =
            |f: &[u8]| header::number(f).and_then(|n| u64::try_from(n).map_err(|_| "a piece of it is negative"));
        pieces.push((number(&field[..12]).map_err(Fault::Archive)?, number(&field[12..]).map_err(Fault::Archive)?));
    }
    Ok(true)
}

fn pairs(numbers: &[u64]) -> Result<Vec<(u64, u64)>, Fault> {
    let (pairs, rest) = numbers.as_chunks::<2>();
    if !rest.is_empty() || pairs.len() > MOST_PIECES {
        return Err(Fault::Archive("a sparse file's map can't be read"));
    }
    Ok(pairs.iter().map(|[offset, length]| (*offset, *length)).collect())
}

/// The pieces must lie in order within the file and be what is stored.
fn well_ordered(pieces: &[(u64, u64)], size: u64, stored: u64) -> Result<(), Fault> {
    let mut end = 0_u64;
    let mut sum = 0_u64;
    for &(offset, length) in pieces {
        let last = offset.checked_add(length).filter(|last| offset >= end && *last <= size);
        end = last.ok_or(Fault::Archive("a sparse file's pieces don't lie in it"))?;
        sum = sum.saturating_add(length);
    }
    if sum != stored {
        return Err(Fault::Archive("a sparse file's pieces aren't what is stored"));
    }
    Ok(())
}
