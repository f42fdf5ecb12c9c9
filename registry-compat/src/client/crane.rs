//! crane: copies images between layout folders and registries, and edits what is in a registry.

use anyhow::{Context as _, Result};

use super::{Client, Did};
use crate::ctx::{Ctx, TAG};
use crate::form::Form;
use crate::op::By;
use crate::place::USER;

#[derive(Debug)]
pub(crate) struct Crane;

impl Client for Crane {
    fn name(&self) -> &'static str {
        "crane"
    }

    fn tool(&self) -> &'static str {
        "crane"
    }

    fn about(&self) -> &'static str {
        "it copies images"
    }

    fn form(&self) -> usize {
        5
    }

    fn push(&self, c: &Ctx<'_>, form: &Form, by: By) -> Result<Did> {
        if let Some(aside) = c.aside {
            // A layout is written from a registry, as crane has it.
            let from = format!("{}/{}:{TAG}", aside.host, c.repository);
            c.seed_at(form, &from)?;
            let words: &[&str] = if by == By::Tag { &["--annotate-ref"] } else { &[] };
            c.tool("crane", &[&["pull", "--format", "oci"], words, &[&from, &c.repository()]].concat())?;
            return Ok(Did::Done);
        }
        let to = if by == By::Tag { c.tagged(TAG) } else { c.by_digest(&form.digest) };
        c.tool("crane", &["push", &form.layout.display().to_string(), &to])?;
        Ok(Did::Done)
    }

    fn pull(&self, c: &Ctx<'_>, _: &Form, reference: &str) -> Result<Did> {
        if let Some(aside) = c.aside {
            if reference.contains('@') {
                return Ok(Did::Cannot("in a layout it names nothing"));
            }
            let to = format!("{}/{}:{TAG}", aside.host, c.repository);
            c.tool("crane", &["push", &c.repository(), &to])?;
            c.tool("crane", &["pull", "--format", "oci", &to, "out"])?;
            return Ok(Did::Done);
        }
        c.tool("crane", &["pull", "--format", "oci", reference, "out"])?;
        Ok(Did::Done)
    }

    fn make_index(&self, c: &Ctx<'_>, wasm: &Form, linux: &Form) -> Result<Did> {
        if c.is_layout() {
            return Ok(Did::Cannot("it edits in registries alone"));
        }
        let (wasm, linux) = (c.by_digest(&wasm.digest), c.by_digest(&linux.digest));
        c.tool("crane", &["index", "append", "-m", &wasm, "-m", &linux, "-t", &c.tagged(TAG)])?;
        Ok(Did::Done)
    }

    fn choose(&self, c: &Ctx<'_>, _: &Form, reference: &str) -> Result<Did> {
        if c.is_layout() {
            return Ok(Did::Cannot("it chooses in registries alone"));
        }
        c.tool("crane", &["pull", "--format", "oci", "--platform", "wasip1/wasm", reference, "out"])?;
        Ok(Did::Done)
    }

    fn copy(&self, c: &Ctx<'_>, from: &str, to: &str) -> Result<Did> {
        c.tool("crane", &["copy", from, to])?;
        Ok(Did::Done)
    }

    fn delete(&self, c: &Ctx<'_>, reference: &str) -> Result<Did> {
        if c.is_layout() {
            return Ok(Did::Cannot("it edits in registries alone"));
        }
        c.tool("crane", &["delete", reference])?;
        Ok(Did::Done)
    }

    fn log_in(&self, c: &Ctx<'_>, password: &str) -> Result<()> {
        c.tool("crane", &["auth", "login", &c.host, "-u", USER, "-p", password]).context("login")?;
        Ok(())
    }
}
