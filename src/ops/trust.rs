//! Owns edits of the trust policy file.

use std::path::{Path, PathBuf};

use super::Vyr;
use crate::error::{Error, ErrorKind, Result};
use crate::trust::{IdentityEntry, RuleView, TrustPolicy, VerifyingKey};

/// What to trust.
#[derive(Debug, Clone)]
pub enum Trusted {
    /// Whoever holds the private half of this key file.
    Key(PathBuf),
    /// The same, with compiled code and nothing else.
    CompiledKey(PathBuf),
    /// A certificate's identity.
    Identity {
        /// The subject alternative name, exact or (with `regexp`) a pattern for the whole of it.
        identity: String,
        /// Whether it is a pattern.
        regexp: bool,
        /// The OIDC issuer.
        issuer: String,
        /// The trusted root of its Sigstore instance.
        trusted_root: PathBuf,
    },
}

fn load(vyr: &Vyr) -> Result<TrustPolicy> {
    Ok(TrustPolicy::load_or_default(&vyr.config().trust_policy)?)
}

/// Adds a signer for `repository` (a prefix; empty for everything).
///
/// # Errors
/// [`ErrorKind::Usage`] for a key or root that can't be read.
pub fn add(vyr: &Vyr, repository: &str, what: &Trusted) -> Result<()> {
    let _turn = editing(&vyr.config().trust_policy)?;
    let mut policy = load(vyr)?;
    match what {
        Trusted::Key(path) | Trusted::CompiledKey(path) => {
            let text = std::fs::read_to_string(path)
                .map_err(|e| {
                    Error::new(ErrorKind::Usage, format!("{} can't be read: {e}", path.display()))
                        .hint("give the public key's file: cosign.pub, NAME.pub of `vyr keygen`, or keys/machine.pub of a data folder")
                })
                .map_err(|e| e.attempted(format_args!("trust the key {}", path.display())))?;
            // The key itself goes into the policy: the file may be moved or changed, and trust must not follow it.
            let key = VerifyingKey::from_pem(&text)
                .map_err(|e| Error::from(e).attempted(format_args!("trust the key {}", path.display())))?;
            match what {
                Trusted::CompiledKey(_) => policy.add_compiled_key(repository, &key.to_pem())?,
                _ => policy.add_key(repository, &key.to_pem())?,
            }
        }
        Trusted::Identity { identity, regexp, issuer, trusted_root } => {
            let root = std::path::absolute(trusted_root)
                .map_err(|e| Error::new(ErrorKind::Usage, format!("{} can't be used: {e}", trusted_root.display())))?;
            if !root.is_file() {
                return Err(Error::new(ErrorKind::Usage, format!("the trusted root {} is not a file", root.display()))
                    .hint("make one with `cosign trusted-root create`"));
            }
            let entry = IdentityEntry {
                identity: identity.clone(),
                regexp: *regexp,
                issuer: issuer.clone(),
                trusted_root: root.to_string_lossy().into_owned(),
            };
            policy.add_identity(repository, &entry)?;
        }
    }
    save(&vyr.config().trust_policy, policy.to_toml())
}

/// Removes one entry of a repository's rule, or the rule.
///
/// # Errors
/// [`ErrorKind::NotFound`] when there is no such rule or entry.
pub fn remove(vyr: &Vyr, repository: &str, what: Option<&str>) -> Result<()> {
    let _turn = editing(&vyr.config().trust_policy)?;
    let mut policy = load(vyr)?;
    let asked = policy.accepts_unsigned(repository);
    policy.remove(repository, what)?;
    if !asked && policy.accepts_unsigned(repository) {
        vyr.reporter().warning(&format!(
            "nobody is trusted for {} any more, and what applies there now accepts what is unsigned",
            if repository.is_empty() { "everything" } else { repository }
        ));
    }
    save(&vyr.config().trust_policy, policy.to_toml())
}

/// Takes the right to compiled code from one key, or for a repository from all.
///
/// # Errors
/// As [`remove`].
pub fn remove_compiled(vyr: &Vyr, repository: &str, key: Option<&str>) -> Result<()> {
    let _turn = editing(&vyr.config().trust_policy)?;
    let mut policy = load(vyr)?;
    policy.remove_compiled(repository, key)?;
    save(&vyr.config().trust_policy, policy.to_toml())
}

/// The rules, as they apply.
///
/// # Errors
/// When the policy can't be read.
pub fn list(vyr: &Vyr) -> Result<Vec<RuleView>> {
    Ok(load(vyr)?.rules())
}

/// The folder of a file, and the file itself where the path is a link.
fn place(path: &Path) -> (PathBuf, PathBuf) {
    let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or_else(|| Path::new(".")).to_owned();
    (folder, path)
}

/// The right to edit the policy, from reading it to having written it: two edits at once must not lose one. Waits.
///
/// # Errors
/// [`ErrorKind::Storage`], and the like.
pub(super) fn editing(policy: &Path) -> Result<std::fs::File> {
    let (folder, path) = place(policy);
    let failed = |e: std::io::Error| Error::unwritable(&path, &e).attempted("edit the trust policy");
    std::fs::create_dir_all(&folder).map_err(failed)?;
    let folder = std::fs::File::open(&folder).map_err(failed)?;
    folder.lock().map_err(failed)?;
    Ok(folder)
}

/// Puts the policy in its place, with the rights that the one before had.
pub(super) fn save(path: &Path, text: &str) -> Result<()> {
    use std::io::Write as _;
    let (folder, path) = place(path);
    let failed = |e: std::io::Error| Error::unwritable(&path, &e).attempted("edit the trust policy");
    std::fs::create_dir_all(&folder).map_err(failed)?;
    let mut file = tempfile::NamedTempFile::new_in(&folder).map_err(failed)?;
    if let Ok(before) = std::fs::metadata(&path) {
        file.as_file().set_permissions(before.permissions()).map_err(failed)?;
    }
    file.write_all(text.as_bytes()).and_then(|()| file.as_file().sync_all()).map_err(failed)?;
    file.persist(&path).map_err(|e| failed(e.error))?;
    std::fs::File::open(&folder).and_then(|f| f.sync_all()).map_err(failed)
}
