//! Owns the Wasm that can't start: one for each way of not starting, with the reason that a task has to give.

use anyhow::{Context as _, Result};

/// Where a partner's bytes come from.
#[derive(Debug, Clone, Copy)]
enum Source {
    /// There is none: the image stands alone.
    Nothing,
    /// The text format.
    Wat(&'static str),
    /// Something else, as the function makes it.
    Made(fn() -> Result<Vec<u8>>),
}

/// A Wasm that stands beside an image.
#[derive(Debug)]
pub(crate) struct Partner {
    pub(crate) name: &'static str,
    /// The word that the task records.
    pub(crate) reason: &'static str,
    source: Source,
}

impl Partner {
    /// Its bytes, unless there is none.
    pub(crate) fn bytes(&self) -> Result<Option<Vec<u8>>> {
        match self.source {
            Source::Nothing => Ok(None),
            Source::Wat(text) => Ok(Some(wat::parse_str(text).with_context(|| self.name)?)),
            Source::Made(make) => make().map(Some),
        }
    }

    /// Whether it reads as Wasm: `vyr push` refuses what doesn't, so that comes by other clients.
    pub(crate) fn is_pushed_by_others(&self) -> bool {
        matches!(self.source, Source::Made(_))
    }
}

macro_rules! wat {
    ($name:literal, $reason:literal) => {
        Partner { name: $name, reason: $reason, source: Source::Wat(include_str!(concat!("../wasm/", $name, ".wat"))) }
    };
}

const fn made(name: &'static str, reason: &'static str, make: fn() -> Result<Vec<u8>>) -> Partner {
    Partner { name, reason, source: Source::Made(make) }
}

pub(crate) const PARTNERS: &[Partner] = &[
    Partner { name: "none", reason: "no_wasm", source: Source::Nothing },
    made("elf", "not_wasm", || {
        let mut header = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0".to_vec();
        header.resize(4096, 0);
        Ok(header)
    }),
    made("text", "not_wasm", || Ok(b"#!/bin/sh\nexec python3 -m app\n".to_vec())),
    made("empty", "not_wasm", || Ok(Vec::new())),
    made("gzipped", "not_wasm", || crate::oci::compress(&good()?, crate::case::Compression::Gzip)),
    made("truncated", "malformed", || {
        let whole = good()?;
        Ok(whole[..whole.len() / 2].to_vec())
    }),
    made("trailing", "malformed", || Ok([good()?, b"and more".to_vec()].concat())),
    made("version-2", "unsupported", || Ok(b"\0asm\x02\0\0\0".to_vec())),
    wat!("ill-typed", "malformed"),
    wat!("shared-memory", "unsupported"),
    wat!("stack-switching", "unsupported"),
    wat!("custom-page-sizes", "unsupported"),
    wat!("wide-arithmetic", "unsupported"),
    wat!("env", "unknown_import"),
    wat!("emscripten", "unknown_import"),
    wat!("bindgen", "unknown_import"),
    wat!("gojs", "unknown_import"),
    wat!("sockets", "unknown_import"),
    wat!("wasi-threads", "unknown_import"),
    wat!("wasi-http", "unknown_import"),
    wat!("store-interface", "unknown_import"),
    wat!("wasi-unstable", "wasi_version"),
    wat!("wasi-0.3", "wasi_version"),
    wat!("wasi-0.3-rc", "wasi_version"),
    wat!("fd-write-short", "incompatible_import"),
    wat!("fd-write-global", "incompatible_import"),
    wat!("environment-odd", "incompatible_import"),
    wat!("reactor", "no_entry"),
    wat!("library", "no_entry"),
    wat!("start-with-arguments", "no_entry"),
    wat!("library-component", "no_entry"),
    wat!("two-gigabytes", "limit"),
    wat!("wide-table", "limit"),
    wat!("bad-segment", "instantiate"),
];

fn good() -> Result<Vec<u8>> {
    Ok(wat::parse_str(include_str!("../wasm/good.wat"))?)
}

/// The partner of that name.
pub(crate) fn partner(name: &str) -> Result<&'static Partner> {
    PARTNERS.iter().find(|partner| partner.name == name).with_context(|| format!("no Wasm is named {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_partner_can_be_made() {
        for partner in PARTNERS {
            assert_eq!(partner.bytes().unwrap().is_none(), partner.reason == "no_wasm", "{}", partner.name);
        }
    }
}
