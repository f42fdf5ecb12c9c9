//! Owns how many of this process's descriptors guests may take: what is left is for connections, the store and other guests'
//! starts, which without any would wait for a guest to close what it has.

use std::os::fd::AsRawFd as _;
use std::sync::OnceLock;

use rustix::process::{Resource, getrlimit};

/// The lowest number that isn't for guests; `None` where the system has no limit.
fn bound() -> Option<u64> {
    static BOUND: OnceLock<Option<u64>> = OnceLock::new();
    *BOUND.get_or_init(|| getrlimit(Resource::Nofile).current.map(|limit| limit - limit / 4))
}

/// Whether a guest may have one more. All together count, whoever has them and whatever they are for.
pub(super) fn are_left() -> bool {
    is_below(bound())
}

fn is_below(bound: Option<u64>) -> bool {
    let Some(bound) = bound else { return true };
    // The system gives the lowest free number: it says how many are taken, at a price of two short calls.
    match rustix::io::fcntl_dupfd_cloexec(std::io::stderr(), 0) {
        Ok(next) => u64::try_from(next.as_raw_fd()).is_ok_and(|next| next < bound),
        Err(rustix::io::Errno::MFILE) => false,
        // There is no standard error.
        Err(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_free_number_decides() {
        assert!(are_left() && is_below(None) && is_below(Some(u64::MAX)));
        assert!(!is_below(Some(0)) && !is_below(Some(1)), "0 is taken, or stderr isn't there");
    }
}
