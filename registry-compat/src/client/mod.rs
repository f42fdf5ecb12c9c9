//! Owns what a client can be asked for. Each client is a file beside this one, and drives the real program.

mod cosign;
mod crane;
mod oras;
mod python;
mod skopeo;
mod umoci;
mod vyr;
mod wkg;

use anyhow::Result;

use crate::ctx::{Ctx, TAG};
use crate::form::Form;
use crate::op::{By, Referrers, Signature};
use crate::place::USER;

/// How a step went that didn't fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Did {
    Done,
    /// Done, and this is the digest that the client told of.
    Published(String),
    /// Done, in a way worth telling.
    Noted(&'static str),
    /// The client, or the registry, has nothing that does this.
    Cannot(&'static str),
}

/// A client. What it doesn't override it has no command for.
pub(crate) trait Client {
    /// As in the tables.
    fn name(&self) -> &'static str;

    /// The tool that it is, in `envs/tools`.
    fn tool(&self) -> &'static str;

    /// Why it has nothing for most rows.
    fn about(&self) -> &'static str;

    /// The form that it is at home with.
    fn form(&self) -> usize;

    /// Publishes a form as `TAG`, or by its digest alone.
    fn push(&self, _: &Ctx<'_>, _: &Form, _: By) -> Result<Did> {
        Ok(Did::Cannot(self.about()))
    }

    /// Fetches a reference to this machine.
    fn pull(&self, _: &Ctx<'_>, _: &Form, _: &str) -> Result<Did> {
        Ok(Did::Cannot(self.about()))
    }

    /// Makes an index, `TAG`, of two artifacts that are there.
    fn make_index(&self, _: &Ctx<'_>, _wasm: &Form, _linux: &Form) -> Result<Did> {
        Ok(Did::Cannot("it makes no index"))
    }

    /// Fetches the Wasm artifact of an index by its platform.
    fn choose(&self, _: &Ctx<'_>, _: &Form, _: &str) -> Result<Did> {
        Ok(Did::Cannot("it knows no platforms"))
    }

    /// Attaches something to a reference and finds it again.
    fn referrers(&self, _: &Ctx<'_>, _: &str, _: Referrers) -> Result<Did> {
        Ok(Did::Cannot("it knows no referrers"))
    }

    fn sign(&self, _: &Ctx<'_>, _: &str, _: Signature) -> Result<Did> {
        Ok(Did::Cannot("it knows no signatures"))
    }

    /// Verifies what another implementation signed.
    fn verify(&self, _: &Ctx<'_>, _: &str, _: Signature) -> Result<Did> {
        Ok(Did::Cannot("it knows no signatures"))
    }

    /// Copies from one repository of a registry to another.
    fn copy(&self, _: &Ctx<'_>, _from: &str, _to: &str) -> Result<Did> {
        Ok(Did::Cannot("it copies nothing between repositories"))
    }

    fn delete(&self, _: &Ctx<'_>, _: &str) -> Result<Did> {
        Ok(Did::Cannot("it deletes nothing in a registry"))
    }

    /// Its own login, or the one whose file it reads.
    fn log_in(&self, c: &Ctx<'_>, password: &str) -> Result<()> {
        c.tool("oras", &["login", &c.host, "--username", USER, "--password", password])?;
        Ok(())
    }

    /// What shows that the registry takes the client in.
    fn use_it(&self, c: &Ctx<'_>) -> Result<Did> {
        let form = c.forms.number(self.form())?;
        if let Did::Cannot(why) = self.push(c, form, By::Tag)? {
            return Ok(Did::Cannot(why));
        }
        c.expect_form(form, &c.tagged(TAG))?;
        let did = self.pull(c, form, &c.tagged(TAG))?;
        c.expect_pulled(form)?;
        Ok(did)
    }
}

/// The columns.
pub(crate) fn all(quick: bool) -> Vec<Box<dyn Client>> {
    let mut all: Vec<Box<dyn Client>> = vec![Box::new(vyr::Vyr)];
    if !quick {
        all.push(Box::new(oras::Oras { name: "oras 1.2", tool: "oras-older", newer: false }));
    }
    all.push(Box::new(oras::Oras { name: "oras 1.3", tool: "oras", newer: true }));
    all.push(Box::new(crane::Crane));
    if !quick {
        all.push(Box::new(skopeo::Skopeo));
        all.push(Box::new(umoci::Umoci));
    }
    all.push(Box::new(cosign::Cosign { name: "cosign 2", tool: "cosign-older", newer: false }));
    all.push(Box::new(cosign::Cosign { name: "cosign 3", tool: "cosign", newer: true }));
    if !quick {
        all.push(Box::new(python::Python));
        all.push(Box::new(wkg::Wkg));
    }
    all
}
