//! Owns the key that every signature of a run is made with, and the other signers and verifiers that judge a client's.

use anyhow::{Result, bail};

use crate::ctx::Ctx;
use crate::kit::Kit;
use crate::op::Signature;

/// A cosign key pair, and the file that tells cosign 3 to sign without a log.
#[derive(Debug)]
pub(crate) struct Keys {
    pub(crate) private: String,
    pub(crate) public: String,
    pub(crate) offline: String,
}

impl Keys {
    pub(crate) fn make(kit: &Kit) -> Result<Self> {
        let folder = kit.root.path().join("keys");
        std::fs::create_dir(&folder)?;
        let home = kit.home()?;
        let path = |name: &str| folder.join(name).display().to_string();
        let cosign = kit.path("cosign")?;
        home.run(cosign, &["generate-key-pair", "--output-key-prefix", &path("signer")])?;
        home.run(cosign, &["signing-config", "create", "--out", &path("offline.json")])?;
        Ok(Self { private: path("signer.key"), public: path("signer.pub"), offline: path("offline.json") })
    }

    /// The words with which cosign 3 signs.
    pub(crate) fn cosign3(&self, how: Signature) -> Vec<&str> {
        let mut words = vec!["sign", "-y", "--key", &self.private];
        match how {
            Signature::Bundle => words.extend(["--signing-config", &self.offline]),
            Signature::Tag => {
                words.extend(["--use-signing-config=false", "--new-bundle-format=false", "--tlog-upload=false"]);
            }
        }
        words
    }

    /// The words with which a cosign signs by the `.sig` tag.
    pub(crate) fn cosign_old(&self, newer: bool) -> Vec<&str> {
        if newer {
            return self.cosign3(Signature::Tag);
        }
        vec!["sign", "-y", "--tlog-upload=false", "--key", &self.private]
    }

    /// The words with which either cosign verifies.
    pub(crate) fn verify(&self) -> [&str; 4] {
        ["verify", "--insecure-ignore-tlog=true", "--key", &self.public]
    }
}

/// What VYR calls a reference of this place.
pub(crate) fn vyr_reference(c: &Ctx<'_>, reference: &str) -> String {
    if c.is_layout() { format!("oci:{reference}") } else { reference.to_owned() }
}

impl Ctx<'_> {
    /// Signs without the client, by the implementation that `by` names: `vyr`, `cosign` or `cosign-older`.
    pub(crate) fn sign_by(&self, by: &str, reference: &str, how: Signature) -> Result<()> {
        let keys = self.keys;
        let words = match by {
            "vyr" => vec!["sign", "--key", &keys.private],
            "cosign" => keys.cosign3(how),
            "cosign-older" => keys.cosign_old(false),
            _ => bail!("{by} doesn't sign"),
        };
        let reference = if by == "vyr" { vyr_reference(self, reference) } else { reference.to_owned() };
        self.judge(by, &[words, vec![&reference]].concat())?;
        Ok(())
    }

    /// Demands that the implementation that `by` names verifies.
    pub(crate) fn verify_by(&self, by: &str, reference: &str) -> Result<()> {
        if by == "vyr" {
            let home = self.kit.home()?;
            let vyr = self.kit.path("vyr")?;
            home.run(vyr, &["trust", "add", "--key", &self.keys.public])?;
            home.run(vyr, &["verify", &vyr_reference(self, reference)])?;
        } else {
            self.judge(by, &[&self.keys.verify()[..], &[reference]].concat())?;
        }
        Ok(())
    }
}
