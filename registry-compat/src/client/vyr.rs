//! VYR itself: `vyr push`, `pull`, `run`, `sign` and `verify`.

use anyhow::{Context as _, Result, ensure};

use super::{Client, Did};
use crate::ctx::{Ctx, TAG};
use crate::form::Form;
use crate::keys::vyr_reference;
use crate::op::{By, Signature};

#[derive(Debug)]
pub(crate) struct Vyr;

impl Client for Vyr {
    fn name(&self) -> &'static str {
        "vyr"
    }

    fn tool(&self) -> &'static str {
        "vyr"
    }

    fn about(&self) -> &'static str {
        "it makes form 1 alone"
    }

    fn form(&self) -> usize {
        1
    }

    fn push(&self, c: &Ctx<'_>, form: &Form, by: By) -> Result<Did> {
        if form.number > 1 {
            return Ok(Did::Cannot(self.about()));
        }
        let file = c.lay(&form.file)?;
        let to = if by == By::Tag { c.tagged(TAG) } else { c.repository() };
        let said = c.tool("vyr", &["push", &vyr_reference(c, &to), &file])?;
        let (_, digest) = said.trim().rsplit_once('@').context("`vyr push` names the digest")?;
        Ok(Did::Published(digest.to_owned()))
    }

    fn pull(&self, c: &Ctx<'_>, _: &Form, reference: &str) -> Result<Did> {
        c.tool("vyr", &["pull", "--allow-unsigned", &vyr_reference(c, reference)])?;
        Ok(Did::Done)
    }

    fn make_index(&self, _: &Ctx<'_>, _: &Form, _: &Form) -> Result<Did> {
        Ok(Did::Cannot("`vyr push --fallback` isn't there yet"))
    }

    fn choose(&self, c: &Ctx<'_>, _: &Form, reference: &str) -> Result<Did> {
        let said = c.tool("vyr", &["run", "--allow-unsigned", &vyr_reference(c, reference)])?;
        ensure!(said == "hello from wasm\n", "the guest said {said:?}");
        Ok(Did::Done)
    }

    fn referrers(&self, _: &Ctx<'_>, _: &str, _: crate::op::Referrers) -> Result<Did> {
        Ok(Did::Cannot("its referrers are signatures: see there"))
    }

    fn sign(&self, c: &Ctx<'_>, reference: &str, how: Signature) -> Result<Did> {
        c.tool("vyr", &["sign", "--key", &c.keys.private, &vyr_reference(c, reference)])?;
        // cosign reads no layout. In a registry cosign 2 sees only the tag, and cosign 3 only the bundle when there is one.
        let judge = if c.is_layout() {
            "vyr"
        } else if how == Signature::Tag {
            "cosign-older"
        } else {
            "cosign"
        };
        c.verify_by(judge, reference)?;
        Ok(Did::Done)
    }

    fn verify(&self, c: &Ctx<'_>, reference: &str, how: Signature) -> Result<Did> {
        if c.is_layout() {
            c.sign_by("vyr", reference, how)?;
        } else {
            c.sign_by(if how == Signature::Tag { "cosign-older" } else { "cosign" }, reference, how)?;
        }
        c.tool("vyr", &["trust", "add", "--key", &c.keys.public])?;
        c.tool("vyr", &["verify", &vyr_reference(c, reference)])?;
        Ok(Did::Done)
    }

    fn copy(&self, c: &Ctx<'_>, from: &str, to: &str) -> Result<Did> {
        // It copies nothing, but remembers where a blob went before.
        let file = c.lay(&c.forms.large.file)?;
        c.tool("vyr", &["push", from, &file])?;
        c.tool("vyr", &["push", to, &file])?;
        Ok(Did::Done)
    }

    fn delete(&self, _: &Ctx<'_>, _: &str) -> Result<Did> {
        Ok(Did::Cannot("it deletes in its own store alone"))
    }
}
