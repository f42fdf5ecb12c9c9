//! Owns the rows of the matrix: what is tried with each registry and client.

use serde::{Deserialize, Serialize};

/// How a reference names an artifact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    Tag,
    Digest,
}

/// How referrers are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Referrers {
    /// As the client does it unless told.
    Auto,
    /// By the registry's referrers API alone.
    Api,
    /// By the tag `sha256-…` alone.
    Tag,
}

/// How a signature is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signature {
    /// The tag `sha256-….sig`.
    Tag,
    /// A Sigstore bundle as a referrer.
    Bundle,
}

/// One row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub(crate) enum Op {
    Push(By, usize),
    Pull(By, usize),
    MakeIndex,
    Choose,
    Referrers(Referrers),
    Sign(Signature),
    Verify(Signature),
    Mount,
    Delete(By),
    CutPush,
    CutPull,
    LogIn,
    HugePush,
    HugePull,
}

impl Op {
    /// All rows, or those that show the harness to work.
    pub(crate) fn all(quick: bool) -> Vec<Self> {
        let mut all = Vec::new();
        let forms = if quick { 1..=2 } else { 1..=6 };
        for by in [By::Tag, By::Digest] {
            all.extend(forms.clone().map(|form| Self::Push(by, form)));
        }
        for by in [By::Tag, By::Digest] {
            all.extend(forms.clone().map(|form| Self::Pull(by, form)));
        }
        all.extend([Self::MakeIndex, Self::Choose]);
        all.extend([Referrers::Auto, Referrers::Api, Referrers::Tag].map(Self::Referrers));
        all.extend([Self::Sign(Signature::Tag), Self::Verify(Signature::Tag)]);
        all.extend([Self::Sign(Signature::Bundle), Self::Verify(Signature::Bundle)]);
        all.extend([Self::Mount, Self::Delete(By::Tag), Self::Delete(By::Digest)]);
        all.extend([Self::CutPush, Self::CutPull, Self::LogIn]);
        if !quick {
            all.extend([Self::HugePush, Self::HugePull]);
        }
        all
    }

    /// The row's name in the tables; the forms share one.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Push(By::Tag, _) => "push by tag",
            Self::Push(By::Digest, _) => "push by digest",
            Self::Pull(By::Tag, _) => "pull by tag",
            Self::Pull(By::Digest, _) => "pull by digest",
            Self::MakeIndex => "make an index",
            Self::Choose => "choose from an index",
            Self::Referrers(Referrers::Auto) => "attach, list referrers",
            Self::Referrers(Referrers::Api) => "referrers by the API alone",
            Self::Referrers(Referrers::Tag) => "referrers by the tag alone",
            Self::Sign(Signature::Tag) => "sign: `.sig` tag",
            Self::Verify(Signature::Tag) => "verify: `.sig` tag",
            Self::Sign(Signature::Bundle) => "sign: bundle",
            Self::Verify(Signature::Bundle) => "verify: bundle",
            Self::Mount => "mount",
            Self::Delete(By::Tag) => "delete by tag",
            Self::Delete(By::Digest) => "delete by digest",
            Self::CutPush => "push, cut once",
            Self::CutPull => "pull, cut once",
            Self::LogIn => "log in",
            Self::HugePush => "push of 1 GiB",
            Self::HugePull => "pull of 1 GiB",
        }
    }

    /// The artifact form, where the row has six.
    pub(crate) fn form(self) -> Option<usize> {
        match self {
            Self::Push(_, form) | Self::Pull(_, form) => Some(form),
            _ => None,
        }
    }

    /// The name in the raw results and in the list of explanations.
    pub(crate) fn id(self) -> String {
        let by = |by| if by == By::Tag { "tag" } else { "digest" };
        let kind = |kind| if kind == Signature::Tag { "tag" } else { "bundle" };
        match self {
            Self::Push(how, form) => format!("push-{}-{form}", by(how)),
            Self::Pull(how, form) => format!("pull-{}-{form}", by(how)),
            Self::MakeIndex => "index-make".to_owned(),
            Self::Choose => "index-choose".to_owned(),
            Self::Referrers(Referrers::Auto) => "referrers".to_owned(),
            Self::Referrers(Referrers::Api) => "referrers-api".to_owned(),
            Self::Referrers(Referrers::Tag) => "referrers-tag".to_owned(),
            Self::Sign(how) => format!("sign-{}", kind(how)),
            Self::Verify(how) => format!("verify-{}", kind(how)),
            Self::Mount => "mount".to_owned(),
            Self::Delete(how) => format!("delete-{}", by(how)),
            Self::CutPush => "cut-push".to_owned(),
            Self::CutPull => "cut-pull".to_owned(),
            Self::LogIn => "login".to_owned(),
            Self::HugePush => "huge-push".to_owned(),
            Self::HugePull => "huge-pull".to_owned(),
        }
    }
}

impl From<Op> for String {
    fn from(op: Op) -> Self {
        op.id()
    }
}

impl TryFrom<String> for Op {
    type Error = String;

    fn try_from(id: String) -> Result<Self, Self::Error> {
        Self::all(false).into_iter().find(|op| op.id() == id).ok_or(format!("no operation is called {id}"))
    }
}
