//! skopeo: `copy` and `delete`.

use anyhow::Result;

use super::{Client, Did};
use crate::ctx::{Ctx, TAG};
use crate::form::{Form, MADE};
use crate::op::By;
use crate::place::USER;

#[derive(Debug)]
pub(crate) struct Skopeo;

/// skopeo's own name of a reference.
fn named(c: &Ctx<'_>, reference: &str) -> String {
    if c.is_layout() { format!("oci:{reference}") } else { format!("docker://{reference}") }
}

/// Copies; an index with all that it lists, or what `platform` chooses.
fn copy(c: &Ctx<'_>, platform: &[&str], all: bool, from: &str, to: &str) -> Result<()> {
    let words =
        ["copy", "--insecure-policy", "--preserve-digests", "--src-tls-verify=false", "--dest-tls-verify=false"];
    let all: &[&str] = if all { &["--all"] } else { &[] };
    c.tool("skopeo", &[platform, &words, all, &[from, to]].concat())?;
    Ok(())
}

impl Client for Skopeo {
    fn name(&self) -> &'static str {
        "skopeo"
    }

    fn tool(&self) -> &'static str {
        "skopeo"
    }

    fn about(&self) -> &'static str {
        "in a layout it names by tag alone"
    }

    fn form(&self) -> usize {
        5
    }

    fn push(&self, c: &Ctx<'_>, form: &Form, by: By) -> Result<Did> {
        if c.is_layout() && by == By::Digest {
            return Ok(Did::Cannot(self.about()));
        }
        let to = if by == By::Tag { c.tagged(TAG) } else { c.by_digest(&form.digest) };
        let from = format!("oci:{}:{MADE}", form.layout.display());
        copy(c, &[], form.number == 6, &from, &named(c, &to))?;
        Ok(Did::Done)
    }

    fn pull(&self, c: &Ctx<'_>, form: &Form, reference: &str) -> Result<Did> {
        if c.is_layout() && reference.contains('@') {
            return Ok(Did::Cannot(self.about()));
        }
        let (from, to) = (named(c, reference), format!("oci:out:{MADE}"));
        copy(c, &[], form.number == 6, &from, &to)?;
        Ok(Did::Done)
    }

    fn choose(&self, c: &Ctx<'_>, _: &Form, reference: &str) -> Result<Did> {
        let platform = ["--override-os", "wasip1", "--override-arch", "wasm"];
        copy(c, &platform, false, &named(c, reference), &format!("oci:out:{MADE}"))?;
        Ok(Did::Done)
    }

    fn copy(&self, c: &Ctx<'_>, from: &str, to: &str) -> Result<Did> {
        // It mounts a blob from where it has read it before, and only from there.
        copy(c, &[], false, &named(c, from), &format!("oci:out:{MADE}"))?;
        copy(c, &[], false, &named(c, from), &named(c, to))?;
        Ok(Did::Noted("it mounts what it has read from there before, and else sends it"))
    }

    fn delete(&self, c: &Ctx<'_>, reference: &str) -> Result<Did> {
        if c.is_layout() {
            return Ok(Did::Cannot("in a layout it deletes nothing"));
        }
        c.tool("skopeo", &["delete", "--tls-verify=false", &named(c, reference)])?;
        Ok(Did::Done)
    }

    fn log_in(&self, c: &Ctx<'_>, password: &str) -> Result<()> {
        c.tool("skopeo", &["login", "--tls-verify=false", "-u", USER, "-p", password, &c.host])?;
        Ok(())
    }
}
