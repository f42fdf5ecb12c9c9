//! Owns how a guest's call stack is told. Its names are the artifact's author's: none begins a line, none steers a terminal, and
//! none takes more than its room. An Itanium name of 230 bytes may stand for gigabytes, each substitution doubling it, so names
//! are demangled into a bounded buffer, which ends it there.

use std::fmt::{self, Write};

use wasmtime::{FrameInfo, WasmBacktrace};

use super::error::visible;

/// The most of one name, in bytes.
const MOST_OF_A_NAME: usize = 1 << 10;
/// The most of all lines, in bytes.
const MOST: usize = 64 << 10;

/// Text that takes no more than there is room for: what is beyond is an error.
struct Bounded {
    text: String,
    room: usize,
}

impl Write for Bounded {
    fn write_str(&mut self, more: &str) -> fmt::Result {
        let fits = more.floor_char_boundary(self.room.saturating_sub(self.text.len()));
        self.text.push_str(more.get(..fits).unwrap_or_default());
        if fits == more.len() { Ok(()) } else { Err(fmt::Error) }
    }
}

/// What `tell` writes, at most so many bytes; cut text ends with `…`.
fn bounded(room: usize, tell: impl FnOnce(&mut Bounded) -> fmt::Result) -> String {
    let mut out = Bounded { text: String::new(), room };
    if tell(&mut out).is_err() {
        out.text.push('…');
    }
    out.text
}

/// A function's name as its author wrote it in C++ or Rust, or as it is.
fn function(mangled: &str) -> String {
    // What is cut is no mangled name any more.
    let mangled = mangled.get(..mangled.floor_char_boundary(MOST)).unwrap_or_default();
    let name = bounded(MOST_OF_A_NAME, |out| {
        if let Ok(rust) = rustc_demangle::try_demangle(mangled) {
            return write!(out, "{rust}");
        }
        match cpp_demangle::Symbol::new(mangled) {
            Ok(cpp) => cpp.structured_demangle(out, &cpp_demangle::DemangleOptions::default()),
            Err(_) => out.write_str(mangled),
        }
    });
    visible(&name)
}

/// Another name: a module's, a file's.
fn plain(name: &str) -> String {
    visible(&bounded(MOST_OF_A_NAME, |out| out.write_str(name)))
}

/// One frame, and what was inlined into it.
fn frame(out: &mut Bounded, number: usize, frame: &FrameInfo) -> fmt::Result {
    write!(out, "  {number:>3}: ")?;
    if let Some(offset) = frame.module_offset() {
        write!(out, "{offset:#8x} - ")?;
    }
    let own = || frame.func_name().map_or_else(|| format!("<wasm function {}>", frame.func_index()), function);
    if frame.symbols().is_empty() {
        return writeln!(out, "{}!{}", plain(frame.module().name().unwrap_or("<unknown>")), own());
    }
    for (position, symbol) in frame.symbols().iter().enumerate() {
        if position > 0 {
            out.write_str("                - ")?;
        }
        match symbol.name() {
            Some(name) => out.write_str(&function(name))?,
            None if position == 0 => out.write_str(&own())?,
            None => out.write_str("<inlined function>")?,
        }
        out.write_str("\n")?;
        if let Some(file) = symbol.file() {
            write!(out, "                    at {}", plain(file))?;
            if let Some(line) = symbol.line() {
                write!(out, ":{line}")?;
                if let Some(column) = symbol.column() {
                    write!(out, ":{column}")?;
                }
            }
            out.write_str("\n")?;
        }
    }
    Ok(())
}

/// The frames as lines, the innermost first.
pub(super) fn frames(backtrace: &WasmBacktrace) -> String {
    let text = bounded(MOST, |out| {
        backtrace.frames().iter().enumerate().try_for_each(|(number, info)| frame(out, number, info))
    });
    text.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_as_their_author_wrote_them() {
        for (mangled, name) in [
            ("_ZN4core9panicking5panic17h0123456789abcdefE", "core::panicking::panic::h0123456789abcdef"),
            ("_ZN5space3fooEibc", "space::foo(int, bool, char)"),
            ("main", "main"),
            ("a\x1bb\n", r"a\u{1b}b\n"),
        ] {
            assert_eq!(function(mangled), name);
        }
    }

    #[test]
    fn a_name_that_stands_for_gigabytes_takes_its_room_and_no_more() {
        let mut bomb = String::from("_Z1f1aIiiE");
        for place in "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ".chars() {
            write!(bomb, "S_IS{place}_S{place}_E").unwrap();
        }
        for name in [bomb, "n".repeat(5000)] {
            let told = function(&name);
            assert!(told.ends_with('…') && told.len() == MOST_OF_A_NAME + '…'.len_utf8(), "{told}");
        }
    }
}
