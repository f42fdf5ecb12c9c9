//! wkg: `wkg oci push` and `pull`.

use anyhow::Result;

use super::{Client, Did};
use crate::ctx::{Ctx, TAG};
use crate::form::Form;
use crate::op::By;

#[derive(Debug)]
pub(crate) struct Wkg;

const NO_LAYOUT: &str = "it knows registries alone";

impl Client for Wkg {
    fn name(&self) -> &'static str {
        "wkg"
    }

    fn tool(&self) -> &'static str {
        "wkg"
    }

    fn about(&self) -> &'static str {
        NO_LAYOUT
    }

    fn form(&self) -> usize {
        1
    }

    fn push(&self, c: &Ctx<'_>, form: &Form, by: By) -> Result<Did> {
        if c.is_layout() {
            return Ok(Did::Cannot(NO_LAYOUT));
        }
        if form.number > 1 {
            return Ok(Did::Cannot("it makes form 1 alone"));
        }
        if by == By::Digest {
            return Ok(Did::Cannot("it pushes by tag alone"));
        }
        let file = c.lay(&form.file)?;
        c.tool("wkg", &["oci", "push", "--insecure", &c.host, &c.tagged(TAG), &file])?;
        Ok(Did::Done)
    }

    fn pull(&self, c: &Ctx<'_>, form: &Form, reference: &str) -> Result<Did> {
        if c.is_layout() {
            return Ok(Did::Cannot(NO_LAYOUT));
        }
        if form.number > 1 {
            return Ok(Did::Cannot("it reads form 1 alone"));
        }
        c.tool("wkg", &["oci", "pull", "--insecure", &c.host, reference, "--output", "out.wasm"])?;
        Ok(Did::Done)
    }
}
