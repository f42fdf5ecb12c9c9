//! cosign, of the second and the third generation: `sign`, `verify`, `clean`.

use anyhow::Result;

use super::{Client, Did};
use crate::ctx::{Ctx, TAG};
use crate::op::Signature;
use crate::place::USER;

#[derive(Debug)]
pub(crate) struct Cosign {
    pub(crate) name: &'static str,
    pub(crate) tool: &'static str,
    /// 3 or later.
    pub(crate) newer: bool,
}

const NO_LAYOUT: &str = "it signs in registries alone";

impl Client for Cosign {
    fn name(&self) -> &'static str {
        self.name
    }

    fn tool(&self) -> &'static str {
        self.tool
    }

    fn about(&self) -> &'static str {
        "it signs what others publish"
    }

    fn form(&self) -> usize {
        1
    }

    fn sign(&self, c: &Ctx<'_>, reference: &str, how: Signature) -> Result<Did> {
        if c.is_layout() {
            return Ok(Did::Cannot(NO_LAYOUT));
        }
        let words = match how {
            _ if self.newer => c.keys.cosign3(how),
            Signature::Tag => c.keys.cosign_old(false),
            Signature::Bundle => return Ok(Did::Cannot("cosign 2.5 signs images in the older form alone")),
        };
        c.tool(self.tool, &[&words[..], &[reference]].concat())?;
        c.verify_by("vyr", reference)?;
        Ok(Did::Done)
    }

    fn verify(&self, c: &Ctx<'_>, reference: &str, how: Signature) -> Result<Did> {
        if c.is_layout() {
            return Ok(Did::Cannot(NO_LAYOUT));
        }
        // vyr writes both forms; where the other one would be read, cosign signs.
        let by = match (how, self.newer) {
            (Signature::Tag, false) | (Signature::Bundle, true) => "vyr",
            (Signature::Tag, true) => "cosign-older",
            (Signature::Bundle, false) => "cosign",
        };
        c.sign_by(by, reference, how)?;
        // cosign 2 looks for bundles only when told.
        let told: &[&str] = if by == "cosign" && !self.newer { &["--new-bundle-format"] } else { &[] };
        c.tool(self.tool, &[&c.keys.verify()[..], told, &[reference]].concat())?;
        Ok(Did::Done)
    }

    fn referrers(&self, _: &Ctx<'_>, _: &str, _: crate::op::Referrers) -> Result<Did> {
        Ok(Did::Cannot("its referrers are signatures: see there"))
    }

    fn copy(&self, c: &Ctx<'_>, from: &str, to: &str) -> Result<Did> {
        c.tool(self.tool, &["copy", from, to])?;
        Ok(Did::Done)
    }

    fn delete(&self, _: &Ctx<'_>, _: &str) -> Result<Did> {
        Ok(Did::Cannot("it deletes signatures alone"))
    }

    fn log_in(&self, c: &Ctx<'_>, password: &str) -> Result<()> {
        c.tool(self.tool, &["login", &c.host, "-u", USER, "-p", password])?;
        Ok(())
    }

    fn use_it(&self, c: &Ctx<'_>) -> Result<Did> {
        let form = c.forms.number(1)?;
        c.seed(form, TAG)?;
        let reference = c.by_digest(&form.digest);
        c.tool(self.tool, &[&c.keys.cosign_old(self.newer)[..], &[&reference]].concat())?;
        c.tool(self.tool, &[&c.keys.verify()[..], &[&reference]].concat())?;
        Ok(Did::Done)
    }
}
