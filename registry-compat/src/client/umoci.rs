//! umoci: makes and unpacks images in layout folders.

use std::path::Path;

use anyhow::{Result, ensure};

use super::{Client, Did};
use crate::ctx::{Ctx, TAG};
use crate::form::{Form, architecture};
use crate::op::By;

#[derive(Debug)]
pub(crate) struct Umoci;

const NO_REGISTRY: &str = "it works on layout folders alone";

impl Client for Umoci {
    fn name(&self) -> &'static str {
        "umoci"
    }

    fn tool(&self) -> &'static str {
        "umoci"
    }

    fn about(&self) -> &'static str {
        NO_REGISTRY
    }

    fn form(&self) -> usize {
        5
    }

    fn push(&self, c: &Ctx<'_>, form: &Form, by: By) -> Result<Did> {
        let (os, arch, name) = match form.number {
            _ if !c.is_layout() => return Ok(Did::Cannot(NO_REGISTRY)),
            _ if by == By::Digest => return Ok(Did::Cannot("it names by tag alone")),
            4 => ("wasip1", "wasm", "/app.wasm"),
            5 => ("linux", architecture(), "/busybox"),
            _ => return Ok(Did::Cannot("it makes images alone")),
        };
        let image = c.tagged(TAG);
        let source = if form.number == 4 { c.forms.number(1)?.file.clone() } else { c.kit.path("busybox")?.to_owned() };
        c.tool("umoci", &["init", "--layout", &c.repository()])?;
        c.tool("umoci", &["new", "--image", &image])?;
        c.tool("umoci", &["insert", "--image", &image, &source.display().to_string(), name])?;
        c.tool(
            "umoci",
            &["config", "--image", &image, "--os", os, "--architecture", arch, "--config.entrypoint", name],
        )?;
        Ok(Did::Noted("an image of its own making"))
    }

    fn pull(&self, c: &Ctx<'_>, form: &Form, reference: &str) -> Result<Did> {
        if !c.is_layout() {
            return Ok(Did::Cannot(NO_REGISTRY));
        }
        if reference.contains('@') {
            return Ok(Did::Cannot("it names by tag alone"));
        }
        if !matches!(form.number, 4 | 5) {
            return Ok(Did::Cannot("it unpacks images alone"));
        }
        c.tool("umoci", &["raw", "unpack", "--rootless", "--image", reference, "out"])?;
        Ok(Did::Done)
    }

    fn delete(&self, c: &Ctx<'_>, reference: &str) -> Result<Did> {
        if !c.is_layout() {
            return Ok(Did::Cannot(NO_REGISTRY));
        }
        if reference.contains('@') {
            return Ok(Did::Cannot("it names by tag alone"));
        }
        c.tool("umoci", &["remove", "--image", reference])?;
        let before = blobs(Path::new(&c.repository()))?;
        c.tool("umoci", &["gc", "--layout", &c.repository()])?;
        ensure!(blobs(Path::new(&c.repository()))? < before, "`umoci gc` removed nothing");
        Ok(Did::Done)
    }
}

fn blobs(layout: &Path) -> Result<usize> {
    Ok(std::fs::read_dir(layout.join("blobs/sha256"))?.count())
}
