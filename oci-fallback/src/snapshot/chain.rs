//! Owns the names of snapshots: the chain ids of an image's layers.

use aws_lc_rs::digest::{SHA256, digest};

use crate::unpack::UnpackError;

/// The chain ids of these diff ids: each names a layer with all below it.
///
/// <https://github.com/opencontainers/image-spec/blob/v1.1.1/config.md#layer-chainid>
///
/// # Errors
/// [`UnpackError::BadDiffId`].
pub fn chain_ids(diff_ids: &[String]) -> Result<Vec<String>, UnpackError> {
    let mut chain: Vec<String> = Vec::with_capacity(diff_ids.len());
    for id in diff_ids {
        if hexadecimal(id).is_none() {
            return Err(UnpackError::BadDiffId(id.clone()));
        }
        let next = match chain.last() {
            None => id.clone(),
            Some(below) => hashed(&format!("{below} {id}")),
        };
        chain.push(next);
    }
    Ok(chain)
}

/// What an image without any layer has for one: no layer has this diff id, as a tar archive is never empty.
pub(super) fn nothing() -> String {
    hashed("")
}

fn hashed(text: &str) -> String {
    format!("sha256:{}", hex::encode(digest(&SHA256, text.as_bytes())))
}

/// The digits of a sha256 digest: what is used as a file name must not be anything else.
pub(super) fn hexadecimal(id: &str) -> Option<&str> {
    let digits = id.strip_prefix("sha256:")?;
    let right = digits.len() == 64 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    right.then_some(digits)
}
