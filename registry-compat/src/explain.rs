//! Owns the reasons found for the failures: a failure without one fails the run, and so does a reason for what works.

use crate::matrix::{Cell, Outcome};

/// Why certain cells fail.
#[derive(Debug)]
pub(crate) struct Explanation {
    pub(crate) registry: &'static str,
    pub(crate) client: &'static str,
    pub(crate) op: &'static str,
    /// Words of what the client said, so that another failure in the same cell isn't taken for this one.
    pub(crate) said: &'static str,
    pub(crate) why: &'static str,
}

const fn because(
    registry: &'static str,
    client: &'static str,
    op: &'static str,
    said: &'static str,
    why: &'static str,
) -> Explanation {
    Explanation { registry, client, op, said, why }
}

const EXPLANATIONS: &[Explanation] = &[
    // Registries.
    because(
        "docker-registry",
        "oras*",
        "referrers-api",
        "referrers API: unsupported",
        "docker-registry 2.8 has no referrers API",
    ),
    because(
        "docker-registry",
        "crane",
        "delete-tag",
        "DIGEST_INVALID",
        "docker-registry 2.8 deletes by digest alone; crane sends the tag, the others ask for its digest first",
    ),
    because(
        "ferro-oci-server",
        "crane",
        "delete-tag",
        "by tag is not supported",
        "ferro-oci-server deletes by digest alone; crane sends the tag",
    ),
    because(
        "OCI layout folder",
        "crane",
        "pull-tag-6",
        "layout contains",
        "`crane push` takes a layout that lists one artifact, and oras, which made this one, lists the parts of an index too",
    ),
    because(
        "distribution",
        "oras 1.*",
        "referrers-api",
        "referrers API: unsupported",
        "distribution 3.1 has no referrers API",
    ),
    because(
        "crane registry serve",
        "oras 1.*",
        "referrers-api",
        "referrers API: unsupported",
        "`crane registry serve` has no referrers API",
    ),
    because("crane registry serve", "oras 1.*", "delete-tag", "it is still there", TAG_STAYS),
    because("crane registry serve", "skopeo", "delete-tag", "it is still there", TAG_STAYS),
    because("crane registry serve", "wkg", "push-tag-1", "location header", NO_ADDRESS),
    because("crane registry serve", "wkg", "huge-push", "location header", NO_ADDRESS),
    because("ferro-oci-server", "oras *", "huge-push", "", ONE_REQUEST),
    because("ferro-oci-server", "crane", "huge-push", "", ONE_REQUEST),
    because("ferro-oci-server", "skopeo", "huge-push", "", ONE_REQUEST),
    // Clients.
    because(
        "*",
        "cosign 2",
        "verify-bundle",
        "no signatures found",
        "cosign 2.5 finds no bundle of an image, not with `--new-bundle-format` either: what it shall verify needs the `.sig` tag too",
    ),
    because(
        "docker-registry",
        "oras (Python)",
        "referrers",
        "lists 0 referrers",
        "Python's oras doesn't write the fallback tag, so without the API its referrer is found by nobody",
    ),
    because(
        "distribution",
        "oras (Python)",
        "referrers",
        "lists 0 referrers",
        "Python's oras doesn't write the fallback tag, so without the API its referrer is found by nobody",
    ),
    because(
        "crane registry serve",
        "oras (Python)",
        "referrers",
        "lists 0 referrers",
        "Python's oras doesn't write the fallback tag, so without the API its referrer is found by nobody",
    ),
    because(
        "*",
        "oras (Python)",
        "pull-*-6",
        "the layer isn't there",
        "Python's oras takes an index for a manifest without layers: it pulls nothing and says that it succeeded",
    ),
    because(
        "*",
        "oras 1.*",
        "cut-push",
        "",
        "oras sends a blob once; it tries again only after an answer such as 429 or 503",
    ),
    because(
        "*",
        "oras 1.*",
        "cut-pull",
        "unexpected EOF",
        "oras reads a blob once; it tries again only after an answer such as 429 or 503",
    ),
    because("*", "crane", "cut-pull", "unexpected EOF", "crane tries requests again, but not a body that breaks"),
    because("*", "skopeo", "cut-push", "writing blob", "skopeo 1.9 sends a blob once"),
    because("*", "skopeo", "cut-pull", "unexpected EOF", "skopeo 1.9 reads a blob once"),
    because("*", "wkg", "cut-push", "connection", "wkg sends a blob once"),
    because("*", "wkg", "cut-pull", "error decoding response body", "wkg reads a blob once"),
    because("*", "oras (Python)", "cut-pull", "Connection broken", "Python's oras reads a blob once"),
    because("vyr serve", "oras (Python)", "cut-push", "Bad Request", TWICE),
    because("docker-registry", "oras (Python)", "cut-push", "Not Found", TWICE),
    because("distribution", "oras (Python)", "cut-push", "Range Not Satisfiable", TWICE),
];

const ONE_REQUEST: &str = "ferro-oci-server takes a request of 512 MiB at most (413); of these clients only vyr and wkg send a blob in pieces then";

const NO_ADDRESS: &str =
    "`crane registry serve` gives no address after an upload, which the specification demands and wkg wants";

const TAG_STAYS: &str =
    "`crane registry serve` keeps the tag when its manifest is deleted by digest, which is what this client does";

const TWICE: &str = "Python's oras sends the whole blob again to the same upload, which has half of it already (400, 416) or is gone (404)";

/// `*` stands for anything.
fn fits(pattern: &str, text: &str) -> bool {
    let Some((start, end)) = pattern.split_once('*') else { return pattern == text };
    text.strip_prefix(start).is_some_and(|rest| rest.ends_with(end))
}

impl Explanation {
    fn covers(&self, cell: &Cell) -> bool {
        fits(self.registry, &cell.registry) && fits(self.client, &cell.client) && fits(self.op, &cell.op.id())
    }
}

/// Gives a failure its reason.
pub(crate) fn apply(cell: &mut Cell) {
    if cell.outcome == Outcome::Fail {
        let said = cell.said.as_deref().unwrap_or_default();
        let found = EXPLANATIONS.iter().find(|one| one.covers(cell) && said.contains(one.said));
        cell.why = found.map(|one| one.why.to_owned());
    }
}

/// What is said of cells that pass, and, unless only a part was run, what is said of none.
pub(crate) fn stale(cells: &[Cell], part: bool) -> Vec<String> {
    let mut stale = Vec::new();
    for one in EXPLANATIONS {
        let mut used = false;
        for cell in cells.iter().filter(|cell| one.covers(cell)) {
            match cell.outcome {
                Outcome::Pass => {
                    stale.push(format!("{} × {} × {} passes: {}", cell.registry, cell.client, cell.op.id(), one.why));
                }
                Outcome::Fail => used |= cell.why.as_deref() == Some(one.why),
                Outcome::None => {}
            }
        }
        if !used && !part {
            stale.push(format!("{} × {} × {} explains no cell: {}", one.registry, one.client, one.op, one.why));
        }
    }
    stale
}

#[cfg(test)]
mod tests {
    use super::fits;

    #[test]
    fn a_star_stands_for_anything() {
        for (pattern, text, fitting) in [
            ("*", "crane", true),
            ("crane", "crane", true),
            ("crane", "crane registry serve", false),
            ("oras 1.*", "oras 1.3", true),
            ("oras 1.*", "oras (Python)", false),
            ("pull-*-6", "pull-digest-6", true),
            ("pull-*-6", "pull-tag-5", false),
        ] {
            assert_eq!(fits(pattern, text), fitting, "{pattern} {text}");
        }
    }
}
