//! Owns the look-up of a user and its groups in the image's own `/etc/passwd` and `/etc/group`: passwd(5), group(5).

use super::ProcessError;
use crate::snapshot::Rootfs;

/// How large either file may be.
const LARGEST: u64 = 4 << 20;

/// How many further groups a user may have: `NGROUPS_MAX` of Linux.
const GROUPS: usize = 65_536;

/// A user of an image.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct User {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) groups: Vec<u32>,
    pub(super) home: String,
}

/// The user that `wanted` names: `user`, `uid`, `user:group`, `uid:gid`; nothing is root.
///
/// # Errors
/// A name isn't in the image; or a file is too large, or can't be read.
pub(super) fn resolve(wanted: &str, root: &Rootfs) -> Result<User, ProcessError> {
    let read = |path: &str| {
        let content = root
            .read(path, LARGEST)
            .map_err(|error| ProcessError::Invalid(format!("the image's {path} can't be read: {error}")))?;
        Ok(String::from_utf8_lossy(&content.unwrap_or_default()).into_owned())
    };
    find(wanted, &read("/etc/passwd")?, &read("/etc/group")?)
}

/// As Docker: a number that is in no file is still a user, in group 0; a group that is named replaces all of the user's.
pub(super) fn find(wanted: &str, passwd: &str, group: &str) -> Result<User, ProcessError> {
    let (name, group_name) = wanted.split_once(':').unwrap_or((wanted, ""));
    let name = if name.is_empty() { "0" } else { name };
    let entries: Vec<Entry<'_>> = passwd.lines().filter_map(entry).collect();
    // A name goes before a number, for a name may be one.
    let entry = entries
        .iter()
        .find(|entry| entry.name == name)
        .or_else(|| name.parse().ok().and_then(|uid: u32| entries.iter().find(|entry| entry.uid == uid)));
    let mut user = match entry {
        Some(entry) => User { uid: entry.uid, gid: entry.gid, groups: Vec::new(), home: entry.home.to_owned() },
        None => match number(name) {
            Some(uid) => User { uid, ..User::default() },
            None => return Err(ProcessError::UnknownUser(name.to_owned())),
        },
    };
    if user.home.is_empty() {
        user.home = "/".into();
    }
    if group_name.is_empty() {
        if let Some(entry) = entry {
            user.groups = further(entry.name, user.gid, group);
        }
    } else {
        user.gid = named(group_name, group).ok_or_else(|| ProcessError::UnknownGroup(group_name.to_owned()))?;
    }
    Ok(user)
}

/// What is needed of a line of `/etc/passwd`.
struct Entry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

/// `name:password:uid:gid:comment:home:shell`. A line that isn't that is passed over.
fn entry(line: &str) -> Option<Entry<'_>> {
    let mut fields = line.trim_end_matches('\r').split(':');
    let name = fields.next().filter(|name| !name.is_empty() && !name.starts_with('#'))?;
    let uid = number(fields.nth(1)?)?;
    let gid = number(fields.next()?)?;
    let home = fields.nth(1).unwrap_or_default();
    Some(Entry { name, uid, gid, home })
}

/// `name:password:gid:members`, for each line that is that.
fn groups(file: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    file.lines().filter_map(|line| {
        let mut fields = line.trim_end_matches('\r').split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        Some((name, number(fields.nth(1)?)?, fields.next().unwrap_or_default()))
    })
}

fn named(name: &str, file: &str) -> Option<u32> {
    groups(file).find(|(other, ..)| *other == name).map(|(_, gid, _)| gid).or_else(|| number(name))
}

fn further(user: &str, own: u32, file: &str) -> Vec<u32> {
    let mut all: Vec<u32> = groups(file)
        .filter(|(_, gid, members)| *gid != own && members.split(',').any(|member| member.trim() == user))
        .map(|(_, gid, _)| gid)
        .take(GROUPS)
        .collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// A user's or group's number. The largest means none, setresuid(2).
fn number(text: &str) -> Option<u32> {
    text.parse().ok().filter(|number| *number <= i32::MAX.unsigned_abs())
}
