//! Owns what of a trial is remembered between processes, and when it counts no longer.

use std::os::unix::fs::MetadataExt;

use serde::{Deserialize, Serialize};

/// What a trial's outcome depends on, as far as it can be told in a moment.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Conditions {
    /// This boot of the kernel.
    boot: String,
    /// Who.
    user: u32,
    /// The namespaces of mounts and users: their files' inodes.
    namespaces: [u64; 2],
}

#[derive(Serialize, Deserialize)]
struct Memo {
    conditions: Conditions,
    overlay: bool,
}

impl Conditions {
    pub(super) fn now() -> Self {
        let inode = |path| std::fs::metadata(path).map_or(0, |file| file.ino());
        Self {
            boot: std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned(),
            user: rustix::process::geteuid().as_raw(),
            namespaces: [inode("/proc/self/ns/mnt"), inode("/proc/self/ns/user")],
        }
    }

    /// Whether overlayfs worked, where the memo is of these conditions.
    pub(super) fn recall(&self, memo: &str) -> Option<bool> {
        let memo: Memo = serde_json::from_str(memo).ok()?;
        (self.known() && memo.conditions == *self).then_some(memo.overlay)
    }

    /// The memo; `None` where the conditions can't be told apart from others.
    pub(super) fn note(self, overlay: bool) -> Option<String> {
        if !self.known() {
            return None;
        }
        serde_json::to_string(&Memo { conditions: self, overlay }).ok()
    }

    fn known(&self) -> bool {
        !self.boot.is_empty() && !self.namespaces.contains(&0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_memo_counts_under_its_own_conditions_alone() {
        let memo = Conditions::now().note(false).unwrap();
        assert_eq!(Conditions::now().recall(&memo), Some(false));
        let others: [fn(&mut Conditions); 4] =
            [|c| c.boot = "another".into(), |c| c.user += 1, |c| c.namespaces[0] += 1, |c| c.namespaces[1] += 1];
        for change in others {
            let mut other = Conditions::now();
            change(&mut other);
            assert_eq!(other.recall(&memo), None, "{other:?}");
        }
        assert_eq!(Conditions::now().recall("{}"), None);
        let nowhere = Conditions { boot: String::new(), ..Conditions::now() };
        assert!(nowhere.note(true).is_none());
    }
}
