//! Bytes compared and hashed by words of eight: for strings as short as names and sources a library's call costs more than its work.

/// Whether both are the same.
#[inline(always)]
pub(crate) fn same(one: &[u8], other: &[u8]) -> bool {
    if one.len() != other.len() {
        return false;
    }
    let (words, rest) = one.as_chunks::<8>();
    let (other_words, other_rest) = other.as_chunks::<8>();
    if let (Some(last), Some(other_last)) = (one.last_chunk::<8>(), other.last_chunk::<8>()) {
        // The last eight overlap what is before them.
        let differ = |(one, other): (&[u8; 8], &[u8; 8])| u64::from_le_bytes(*one) != u64::from_le_bytes(*other);
        return !differ((last, other_last)) && !words.iter().zip(other_words).any(differ);
    }
    rest.iter().zip(other_rest).all(|(one, other)| one == other)
}

/// A number that differs for most that differ, above all in its highest bits. Nobody chooses keys for it to collide: only the operator's table is kept by it.
#[inline(always)]
pub(crate) fn hash(bytes: &[u8]) -> u64 {
    let mix = |hash: u64, word: u64| (hash.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
    let mut hash = mix(0, bytes.len() as u64);
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        hash = mix(hash, u64::from_le_bytes(*word));
    }
    if let Some(last) = bytes.last_chunk::<8>() {
        hash = mix(hash, u64::from_le_bytes(*last));
    } else {
        hash = rest.iter().fold(hash, |hash, byte| mix(hash, u64::from(*byte)));
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_changed_anywhere_is_seen() {
        for length in 0..40 {
            let one: Vec<u8> = (0..length).collect();
            assert!(same(&one, &one.clone()));
            assert_eq!(hash(&one), hash(&one.clone()));
            for at in 0..one.len() {
                let mut other = one.clone();
                other[at] ^= 1;
                assert!(!same(&one, &other) && !same(&one, &one[..at]));
                assert_ne!(hash(&one), hash(&other));
            }
        }
    }
}
