//! Owns what bytes that aren't Wasm look like, in words, and what to push in place of them.

const TEXT_FORM: &str = "Wasm in text form";
const GZIP: &str = "gzip-compressed data";
const ZSTD: &str = "zstd-compressed data";
const ZIP: &str = "a zip archive";
const TAR: &str = "a tar archive";
const ELF: &str = "an ELF file: a Linux program, or precompiled code";
const PRECOMPILED: &str = "precompiled code";
const EMPTY: &str = "an empty file";
const CUT: &str = "the very beginning of a Wasm file, cut short";

/// The magic numbers are those of file(1).
const KNOWN: &[(&[u8], &str)] = &[
    (b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0wasmtime", PRECOMPILED),
    (b"\x7fELF", ELF),
    (b"MZ", "a PE file: a Windows program"),
    (b"\xcf\xfa\xed\xfe", "a Mach-O file: a macOS program"),
    (b"\xca\xfe\xba\xbe", "a Mach-O or Java class file"),
    (b"\x1f\x8b", GZIP),
    (b"\x28\xb5\x2f\xfd", ZSTD),
    (b"PK\x03\x04", ZIP),
    (b"#!", "a script"),
    (b"(module", TEXT_FORM),
    (b"(component", TEXT_FORM),
    (b"{", "JSON"),
    (b"<", "HTML or XML"),
];

/// What bytes that aren't Wasm look like.
#[must_use]
pub fn looks_like(bytes: &[u8]) -> &'static str {
    if bytes.is_empty() {
        return EMPTY;
    }
    if b"\0asm".starts_with(&bytes[..bytes.len().min(4)]) || (bytes.len() < 8 && bytes.starts_with(b"\0asm")) {
        return CUT;
    }
    if bytes.get(257..262) == Some(b"ustar") {
        return TAR;
    }
    let start = bytes.trim_ascii_start();
    if let Some((_, words)) = KNOWN.iter().find(|(magic, _)| bytes.starts_with(magic) || start.starts_with(magic)) {
        return words;
    }
    match std::str::from_utf8(&bytes[..bytes.len().min(64)]) {
        Ok(text) if !text.chars().any(|c| c.is_control() && !c.is_whitespace()) => "text",
        _ => "data of no known kind",
    }
}

/// What to push in place of bytes that look so.
#[must_use]
pub fn instead(words: &str) -> &'static str {
    match words {
        TEXT_FORM => "assemble it first: `wasm-tools parse FILE.wat -o FILE.wasm`, or `wat2wasm FILE.wat`",
        GZIP | ZSTD | ZIP | TAR => "unpack it, and push the .wasm file in it",
        ELF => {
            "rebuild it for wasm32-wasip1 or wasm32-wasip2; a Linux program can only stand beside it, in an image (--fallback)"
        }
        PRECOMPILED => {
            "push the .wasm file that it was compiled from; `vyr compile REF --push` puts compiled code beside it"
        }
        EMPTY => "check that the build wrote it: `vyr new` shows one that does",
        CUT => "build it again, or copy it again: most of it is missing",
        _ => "push a .wasm file, built for wasm32-wasip1 or wasm32-wasip2; `vyr new` makes a workload that builds one",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_not_wasm_are_named() {
        let mut tar = vec![b'a'; 512];
        tar[257..262].copy_from_slice(b"ustar");
        for (bytes, words) in [
            (&b"\x7fELF\x02\x01\x01"[..], "ELF"),
            (b"MZ\x90\0", "Windows"),
            (b"\x1f\x8b\x08\0", "gzip"),
            (b"", "empty"),
            (b"\0as", "cut short"),
            (b"\0asm\x01", "cut short"),
            (b"  (module)", "text form"),
            (b"hello there, this is text", "text"),
            (b"\x93\x01\x02\x00\xff", "no known kind"),
            (&tar, "tar"),
        ] {
            assert!(looks_like(bytes).contains(words), "{} should say {words}", looks_like(bytes));
        }
        assert!(instead(looks_like(b"(module)")).contains("wat2wasm"));
        assert!(instead(looks_like(b"text")).contains("vyr new"));
    }
}
