//! Python's oras, by a script of a few lines around its client class.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::{Client, Did};
use crate::ctx::{Ctx, TAG};
use crate::form::{Form, blob};
use crate::op::{By, Referrers};

#[derive(Debug)]
pub(crate) struct Python;

const SCRIPT: &str = include_str!("python.py");
const NO_LAYOUT: &str = "it knows registries alone";

fn script(c: &Ctx<'_>, words: &[&str]) -> Result<String> {
    c.tool("python-oras", &[&["-c", SCRIPT], words].concat())
}

impl Client for Python {
    fn name(&self) -> &'static str {
        "oras (Python)"
    }

    fn tool(&self) -> &'static str {
        "python-oras"
    }

    fn about(&self) -> &'static str {
        NO_LAYOUT
    }

    fn form(&self) -> usize {
        2
    }

    fn push(&self, c: &Ctx<'_>, form: &Form, by: By) -> Result<Did> {
        if c.is_layout() {
            return Ok(Did::Cannot(NO_LAYOUT));
        }
        if form.layer_type.is_empty() {
            return Ok(Did::Cannot("it pushes files, not images"));
        }
        if by == By::Digest {
            return Ok(Did::Cannot("it pushes by tag alone"));
        }
        let layer = format!("{}:{}", c.lay(&form.file)?, form.layer_type);
        let config = match &form.config {
            Some((path, media_type)) => format!("{}:{media_type}", c.lay(path)?),
            None => String::new(),
        };
        script(c, &["push", &c.tagged(TAG), &layer, &config])?;
        Ok(Did::Done)
    }

    fn pull(&self, c: &Ctx<'_>, _: &Form, reference: &str) -> Result<Did> {
        if c.is_layout() {
            return Ok(Did::Cannot(NO_LAYOUT));
        }
        script(c, &["pull", reference, "out"])?;
        Ok(Did::Done)
    }

    fn referrers(&self, c: &Ctx<'_>, reference: &str, how: Referrers) -> Result<Did> {
        if c.is_layout() {
            return Ok(Did::Cannot(NO_LAYOUT));
        }
        if how != Referrers::Auto {
            return Ok(Did::Cannot("it has no choice of that"));
        }
        let digest = c.digest_of(reference)?;
        let size = std::fs::metadata(blob(&c.forms.number(2)?.layout, &digest))?.len();
        std::fs::write(c.home.work().join("note.txt"), "here")?;
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        script(c, &["attach", &c.tagged("note"), &digest, &size.to_string(), media_type])?;
        // It lists none itself.
        let found: Value = serde_json::from_str(&c.judge("oras", &["discover", "--format", "json", reference])?)?;
        let count = found["referrers"].as_array().context("a list")?.len();
        ensure!(count == 1, "oras 1.3 lists {count} referrers of the one that it attached");
        Ok(Did::Done)
    }
}
