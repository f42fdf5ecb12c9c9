//! oras: `push` and `pull` for the forms that are one file, `cp` for images and indexes.

use anyhow::{Result, ensure};
use serde_json::Value;

use super::{Client, Did};
use crate::ctx::{Ctx, TAG};
use crate::form::{Form, MADE};
use crate::op::{By, Referrers};

#[derive(Debug)]
pub(crate) struct Oras {
    pub(crate) name: &'static str,
    pub(crate) tool: &'static str,
    /// 1.3 or later.
    pub(crate) newer: bool,
}

impl Oras {
    /// Runs with the flag that makes a reference a layout's.
    fn run(&self, c: &Ctx<'_>, words: &[&str]) -> Result<String> {
        let flag: &[&str] = if c.is_layout() { &["--oci-layout"] } else { &[] };
        c.tool(self.tool, &[words, flag].concat())
    }

    fn fetch(&self, c: &Ctx<'_>, reference: &str, platform: &[&str]) -> Result<()> {
        let flag: &[&str] = if c.is_layout() { &["--from-oci-layout"] } else { &[] };
        let to = format!("out:{MADE}");
        c.tool(self.tool, &[&["cp"], flag, &[reference, "--to-oci-layout", &to], platform].concat())?;
        Ok(())
    }
}

impl Client for Oras {
    fn name(&self) -> &'static str {
        self.name
    }

    fn tool(&self) -> &'static str {
        self.tool
    }

    fn about(&self) -> &'static str {
        "it has no such command"
    }

    fn form(&self) -> usize {
        2
    }

    fn push(&self, c: &Ctx<'_>, form: &Form, by: By) -> Result<Did> {
        let to = if by == By::Tag { c.tagged(TAG) } else { c.repository() };
        if form.layer_type.is_empty() {
            let from = format!("{}:{MADE}", form.layout.display());
            let flag: &[&str] = if c.is_layout() { &["--to-oci-layout"] } else { &[] };
            c.tool(self.tool, &[&["cp", "--from-oci-layout", &from], flag, &[&to]].concat())?;
            return Ok(Did::Done);
        }
        let layer = format!("{}:{}", c.lay(&form.file)?, form.layer_type);
        let config = match &form.config {
            Some((path, media_type)) => Some(format!("{}:{media_type}", c.lay(path)?)),
            None => None,
        };
        let config: Vec<&str> = config.iter().flat_map(|config| ["--config", config]).collect();
        let words = ["push", "--format", "go-template={{.digest}}"];
        let said = self.run(c, &[&words[..], &config, &[&to, &layer]].concat())?;
        Ok(Did::Published(said.trim().to_owned()))
    }

    fn pull(&self, c: &Ctx<'_>, form: &Form, reference: &str) -> Result<Did> {
        if form.layer_type.is_empty() {
            self.fetch(c, reference, &[])?;
        } else {
            self.run(c, &["pull", "--output", "out", reference])?;
        }
        Ok(Did::Done)
    }

    fn make_index(&self, c: &Ctx<'_>, wasm: &Form, linux: &Form) -> Result<Did> {
        if !self.newer {
            return Ok(Did::Cannot("`manifest index create` came with 1.3"));
        }
        self.run(c, &["manifest", "index", "create", &c.tagged(TAG), &wasm.digest, &linux.digest])?;
        Ok(Did::Done)
    }

    fn choose(&self, c: &Ctx<'_>, _: &Form, reference: &str) -> Result<Did> {
        self.fetch(c, reference, &["--platform", "wasip1/wasm"])?;
        Ok(Did::Done)
    }

    fn referrers(&self, c: &Ctx<'_>, reference: &str, how: Referrers) -> Result<Did> {
        let by: &[&str] = match how {
            Referrers::Auto => &[],
            _ if c.is_layout() => return Ok(Did::Cannot("a folder has neither")),
            Referrers::Api => &["--distribution-spec", "v1.1-referrers-api"],
            Referrers::Tag => &["--distribution-spec", "v1.1-referrers-tag"],
        };
        let attach =
            ["attach", "--artifact-type", "application/vnd.example.note", "--annotation", "note=here", reference];
        self.run(c, &[&attach[..], by].concat())?;
        let said = self.run(c, &[&["discover", "--format", "json", reference], by].concat())?;
        let found: Value = serde_json::from_str(&said)?;
        let key = if self.newer { "referrers" } else { "manifests" };
        let count = found[key].as_array().map_or(0, Vec::len);
        ensure!(count == 1, "it lists {count} referrers of the one that it attached");
        Ok(Did::Done)
    }

    fn copy(&self, c: &Ctx<'_>, from: &str, to: &str) -> Result<Did> {
        c.tool(self.tool, &["cp", from, to])?;
        Ok(Did::Done)
    }

    fn delete(&self, c: &Ctx<'_>, reference: &str) -> Result<Did> {
        self.run(c, &["manifest", "delete", "--force", reference])?;
        Ok(Did::Done)
    }

    fn log_in(&self, c: &Ctx<'_>, password: &str) -> Result<()> {
        c.tool(self.tool, &["login", &c.host, "--username", crate::place::USER, "--password", password])?;
        Ok(())
    }
}
