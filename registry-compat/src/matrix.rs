//! Owns the run: each operation with each client on each registry, and what came of it.

use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::client::{Client, Did};
use crate::ctx::{Ctx, TAG};
use crate::explain;
use crate::form::{Form, Forms};
use crate::keys::Keys;
use crate::kit::Kit;
use crate::op::{By, Op};
use crate::place::{Kind, Place};
use crate::proxy::{Cut, Proxy, Way};

/// What came of a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome {
    Pass,
    Fail,
    /// The client or the registry has nothing that does this.
    None,
}

/// One cell; a line of the raw results.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Cell {
    pub(crate) registry: String,
    pub(crate) client: String,
    pub(crate) op: Op,
    pub(crate) outcome: Outcome,
    /// How it passed, why there is nothing, or the reason found for a failure; none for an unexplained one.
    pub(crate) why: Option<String>,
    /// What the client said when it failed.
    pub(crate) said: Option<String>,
    pub(crate) milliseconds: u64,
}

/// What tells cells apart.
pub(crate) type Key = (String, String, Op);

impl Cell {
    pub(crate) fn key(&self) -> Key {
        (self.registry.clone(), self.client.clone(), self.op)
    }
}

/// Which part of the matrix to run.
#[derive(Debug)]
pub(crate) struct Selection {
    pub(crate) kinds: Vec<Kind>,
    pub(crate) quick: bool,
    /// A part: rows, clients or registries whose name has one of these words.
    pub(crate) only: Vec<String>,
    /// Cells to leave out.
    pub(crate) known: Vec<Key>,
}

impl Selection {
    fn wants(&self, kind: Kind, client: &str, op: Op) -> bool {
        let id = op.id();
        self.only.iter().all(|word| kind.name().contains(word) || client.contains(word) || id.contains(word))
            && !self.known.contains(&(kind.name().to_owned(), client.to_owned(), op))
    }
}

pub(crate) fn run(
    kit: &Kit,
    forms: &Forms,
    selection: &Selection,
    mut tell: impl FnMut(&Cell) -> Result<()>,
) -> Result<()> {
    let keys = Keys::make(kit)?;
    for &kind in &selection.kinds {
        let place = Place::start(kit, kind, false)?;
        let locked = match kind.without_passwords() {
            None => Some(Place::start(kit, kind, true)?),
            Some(_) => None,
        };
        let aside = if place.is_layout() { Some(Place::start(kit, Kind::Vyr, false)?) } else { None };
        for client in crate::client::all(selection.quick) {
            for op in Op::all(selection.quick) {
                if !selection.wants(kind, client.name(), op) {
                    continue;
                }
                let place = if op == Op::LogIn { locked.as_ref().unwrap_or(&place) } else { &place };
                let repository = format!("{}-{}", client.tool(), op.id());
                let began = Instant::now();
                let mut c = Ctx::new(kit, forms, &keys, place, aside.as_ref(), repository)?;
                let did = attempt(op, client.as_ref(), &mut c);
                let (outcome, why, said) = match did {
                    Ok(Did::Done | Did::Published(_)) => (Outcome::Pass, None, None),
                    Ok(Did::Noted(note)) => (Outcome::Pass, Some(note.to_owned()), None),
                    Ok(Did::Cannot(why)) => (Outcome::None, Some(why.to_owned()), None),
                    Err(error) => (Outcome::Fail, None, Some(plain(&format!("{error:#}"), &c))),
                };
                let (registry, client) = (kind.name().to_owned(), client.name().to_owned());
                let milliseconds = u64::try_from(began.elapsed().as_millis())?;
                let mut cell = Cell { registry, client, op, outcome, why, said, milliseconds };
                explain::apply(&mut cell);
                tell(&cell)?;
            }
        }
    }
    Ok(())
}

/// Words that are the same in every run: no ports, no temporary folders; the end of them, where the reason stands.
fn plain(text: &str, c: &Ctx<'_>) -> String {
    let mut text = text.replace(&c.host, "REGISTRY").replace(&c.place.host, "REGISTRY");
    for folder in [c.home.work(), c.kit.root.path().to_owned()] {
        text = text.replace(&folder.display().to_string(), "…");
    }
    if let Some((_, trace)) = text.split_once("Traceback ") {
        text = trace.lines().rfind(|line| line.starts_with(char::is_alphabetic)).unwrap_or(trace).to_owned();
    }
    // docker-registry's upload addresses carry their whole state.
    let words = text.split_whitespace().map(|word| match word.split_once("?_state=") {
        Some((address, _)) => address,
        None => word,
    });
    let words: Vec<&str> = words.collect();
    let text = words.join(" ");
    let skip = text.chars().count().saturating_sub(500);
    if skip == 0 { text } else { format!("… {}", text.chars().skip(skip).collect::<String>()) }
}

fn attempt(op: Op, client: &dyn Client, c: &mut Ctx<'_>) -> Result<Did> {
    match op {
        Op::Push(by, number) => push(client, c, c.forms.number(number)?, by),
        Op::Pull(by, number) => pull(client, c, c.forms.number(number)?, by),
        Op::MakeIndex => {
            let (wasm, linux) = (c.forms.number(1)?, c.forms.number(5)?);
            c.seed(wasm, "wasm")?;
            c.seed(linux, "linux")?;
            let did = client.make_index(c, wasm, linux)?;
            if !matches!(did, Did::Cannot(_)) {
                let index = c.manifest_of(&c.tagged(TAG))?;
                let listed = index["manifests"].as_array().context("an index lists manifests")?;
                for form in [wasm, linux] {
                    ensure!(listed.iter().any(|entry| entry["digest"] == form.digest.as_str()), "the index is {index}");
                }
            }
            Ok(did)
        }
        Op::Choose => {
            let form = c.forms.number(6)?;
            c.seed(form, TAG)?;
            let did = client.choose(c, form, &c.tagged(TAG))?;
            arrived(c, form, did)
        }
        Op::Referrers(how) => {
            c.seed(c.forms.number(2)?, TAG)?;
            client.referrers(c, &c.tagged(TAG), how)
        }
        Op::Sign(how) | Op::Verify(how) => {
            let form = c.forms.number(1)?;
            c.seed(form, TAG)?;
            let reference = c.by_digest(&form.digest);
            if matches!(op, Op::Sign(_)) { client.sign(c, &reference, how) } else { client.verify(c, &reference, how) }
        }
        Op::Mount => mount(client, c),
        Op::Delete(by) => {
            let form = c.forms.number(5)?;
            c.seed(form, TAG)?;
            let reference = if by == By::Tag { c.tagged(TAG) } else { c.by_digest(&form.digest) };
            let did = client.delete(c, &reference)?;
            if !matches!(did, Did::Cannot(_)) {
                ensure!(c.digest_of(&reference).is_err(), "the command succeeded, and it is still there");
            }
            Ok(did)
        }
        Op::CutPush | Op::CutPull if c.is_layout() => Ok(Did::Cannot("a folder has no connection")),
        Op::CutPush => fresh(c, c.forms.large.bytes, |c, form| cut(client, c, form, Way::Up)),
        Op::CutPull => cut(client, c, &c.forms.large, Way::Down),
        Op::LogIn => log_in(client, c),
        Op::HugePush | Op::HugePull => {
            c.patient();
            let Some(form) = &c.forms.huge else { return Ok(Did::Cannot("not in this run")) };
            if op == Op::HugePush {
                return fresh(c, form.bytes, |c, form| push(client, c, form, By::Tag));
            }
            // One for all clients: it takes long to put there.
            let repository = std::mem::replace(&mut c.repository, "huge".to_owned());
            if c.digest_of(&c.tagged(TAG)).is_err() {
                c.seed_huge(form, TAG)?;
            }
            let did = client.pull(c, form, &c.tagged(TAG));
            c.repository = repository;
            arrived(c, form, did?)
        }
    }
}

fn push(client: &dyn Client, c: &Ctx<'_>, form: &Form, by: By) -> Result<Did> {
    let did = client.push(c, form, by)?;
    match &did {
        Did::Cannot(_) => {}
        Did::Noted(_) => c.expect_image(&c.tagged(TAG))?,
        _ if by == By::Tag => c.expect_form(form, &c.tagged(TAG))?,
        Did::Published(digest) => c.expect_form(form, &c.by_digest(digest))?,
        _ => c.expect_form(form, &c.by_digest(&form.digest))?,
    }
    Ok(did)
}

fn pull(client: &dyn Client, c: &Ctx<'_>, form: &Form, by: By) -> Result<Did> {
    c.seed(form, TAG)?;
    let reference = if by == By::Tag { c.tagged(TAG) } else { c.by_digest(&form.digest) };
    let did = client.pull(c, form, &reference)?;
    arrived(c, form, did)
}

fn arrived(c: &Ctx<'_>, form: &Form, did: Did) -> Result<Did> {
    if !matches!(did, Did::Cannot(_)) {
        c.expect_pulled(form)?;
    }
    Ok(did)
}

/// A copy within one registry, which has no need to move the blobs.
fn mount(client: &dyn Client, c: &mut Ctx<'_>) -> Result<Did> {
    if c.is_layout() {
        return Ok(Did::Cannot("a folder mounts nothing"));
    }
    let form = &c.forms.large;
    let source = format!("{}-from:{TAG}", c.repository);
    c.seed_at(form, &format!("{}/{source}", c.place.host))?;
    let proxy = Proxy::start(c.place.port()?, None)?;
    c.host = proxy.host();
    let did = client.copy(c, &format!("{}/{source}", c.host), &c.tagged(TAG))?;
    if matches!(did, Did::Cannot(_)) {
        return Ok(did);
    }
    c.expect_form(form, &c.tagged(TAG))?;
    let carried = proxy.carried(Way::Up);
    ensure!(carried < form.bytes / 2, "it copied, and sent the blobs again instead of mounting them");
    Ok(did)
}

/// A push of content that the registry has in no other repository either: some look for a blob in all of them.
fn fresh(c: &mut Ctx<'_>, bytes: u64, push: impl FnOnce(&mut Ctx<'_>, &Form) -> Result<Did>) -> Result<Did> {
    let form = Forms::fresh(c.kit, bytes)?;
    let did = push(c, &form);
    form.remove()?;
    did
}

/// A connection that breaks in the middle of a large blob, once. The same command has to get over it.
fn cut(client: &dyn Client, c: &mut Ctx<'_>, form: &Form, way: Way) -> Result<Did> {
    let proxy = Proxy::start(c.place.port()?, Some(Cut { way, after: form.bytes / 2 }))?;
    if way == Way::Down {
        c.seed(form, TAG)?;
    }
    c.host = proxy.host();
    let did = match way {
        Way::Up => client.push(c, form, By::Tag),
        Way::Down => client.pull(c, form, &c.tagged(TAG)),
    }?;
    if matches!(did, Did::Cannot(_)) {
        return Ok(did);
    }
    ensure!(proxy.has_cut(), "the connection was never cut");
    match way {
        Way::Up => c.expect_form(form, &c.tagged(TAG))?,
        Way::Down => c.expect_pulled(form)?,
    }
    let again = proxy.carried(way) > form.bytes / 4 * 5;
    Ok(Did::Noted(if again { "it began again, and sent the blob whole" } else { "it went on where it broke" }))
}

/// Without credentials it must be refused; with them it must work.
fn log_in(client: &dyn Client, c: &mut Ctx<'_>) -> Result<Did> {
    if let Some(why) = c.place.kind.without_passwords() {
        return Ok(Did::Cannot(why));
    }
    let password = c.place.password.clone().context("this registry wants a password")?;
    // Some ask again and again when they are refused.
    let seconds = std::mem::replace(&mut c.home.seconds, 20);
    match client.use_it(c) {
        Ok(Did::Cannot(why)) => return Ok(Did::Cannot(why)),
        Ok(_) => bail!("the registry let it in without credentials"),
        Err(_) => {}
    }
    // A fresh home: what the refused try left must not help.
    c.home = c.kit.home()?;
    c.home.seconds = seconds;
    client.log_in(c, &password)?;
    client.use_it(c)
}
