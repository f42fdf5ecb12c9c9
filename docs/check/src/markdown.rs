//! Owns how a Markdown file is read: its links with their places, and the anchors that others can point to.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;
use std::sync::LazyLock;

use anyhow::{Context as _, Result};
use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag, TagEnd};
use regex::Regex;

/// `src`, `href` in HTML within Markdown, and what makes an anchor there.
static ATTRIBUTE: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r#"\b(src|href|id|name)="([^"]*)""#).expect("it is a constant"));

/// A Markdown file.
#[derive(Debug, Default)]
pub(crate) struct Markdown {
    pub(crate) text: String,
    pub(crate) links: Vec<Link>,
    pub(crate) anchors: BTreeSet<String>,
    /// Mermaid diagrams: the whole block, fences included.
    pub(crate) diagrams: Vec<Range<usize>>,
    /// Blocks that say `from="FILE"`: they show a part of it.
    pub(crate) parts: Vec<Part>,
}

#[derive(Debug, Clone)]
pub(crate) struct Link {
    /// From 1.
    pub(crate) line: usize,
    pub(crate) target: String,
    /// The whole link in the text, and of that what is shown; nothing where it is HTML.
    pub(crate) place: Option<(Range<usize>, Range<usize>)>,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Part {
    /// From 1.
    pub(crate) line: usize,
    /// Below the project.
    pub(crate) file: String,
    pub(crate) text: String,
}

impl Markdown {
    pub(crate) fn read(path: &Path) -> Result<Self> {
        Ok(Self::parse(std::fs::read_to_string(path).with_context(|| path.display().to_string())?))
    }

    pub(crate) fn parse(text: String) -> Self {
        let mut found = Self::default();
        let mut open: Vec<(Range<usize>, String, Option<Range<usize>>)> = Vec::new();
        let mut heading: Option<String> = None;
        let mut part: Option<Part> = None;
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        let line_of = |offset: usize| text[..offset].matches('\n').count() + 1;
        for (event, range) in
            Parser::new_ext(&text, Options::ENABLE_TABLES | Options::ENABLE_STRIKETHROUGH).into_offset_iter()
        {
            let starts = matches!(&event, Event::Start(Tag::Link { .. } | Tag::Image { .. }));
            if let Some((_, _, shown)) = open.last_mut()
                && !starts
                && !matches!(&event, Event::End(TagEnd::Link | TagEnd::Image))
            {
                let start = shown.as_ref().map_or(range.start, |shown| shown.start);
                *shown = Some(start..range.end);
            }
            match event {
                Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                    open.push((range, dest_url.into_string(), None));
                }
                Event::End(TagEnd::Link | TagEnd::Image) => {
                    let Some((place, target, shown)) = open.pop() else { continue };
                    let shown = shown.unwrap_or(place.start..place.start);
                    found.links.push(Link { line: line_of(place.start), target, place: Some((place, shown)) });
                }
                Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
                Event::End(TagEnd::Heading(_)) => {
                    let slug = slug(&heading.take().unwrap_or_default());
                    let count = seen.entry(slug.clone()).or_default();
                    found.anchors.insert(if *count == 0 { slug } else { format!("{slug}-{count}") });
                    *count += 1;
                }
                Event::Text(words) | Event::Code(words) => {
                    if let Some(heading) = &mut heading {
                        heading.push_str(&words);
                    }
                    if let Some(part) = &mut part {
                        part.text.push_str(&words);
                    }
                }
                Event::Html(html) | Event::InlineHtml(html) => {
                    for attribute in ATTRIBUTE.captures_iter(&html) {
                        match &attribute[1] {
                            "id" | "name" => _ = found.anchors.insert(attribute[2].to_owned()),
                            _ => found.links.push(Link {
                                line: line_of(range.start),
                                target: attribute[2].to_owned(),
                                place: None,
                            }),
                        }
                    }
                }
                Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(info))) => {
                    if &*info == "mermaid" {
                        found.diagrams.push(range.clone());
                    }
                    let from = info.split_once(" from=\"").and_then(|(_, rest)| rest.strip_suffix('"'));
                    part = from.map(|file| Part {
                        line: line_of(range.start),
                        file: file.to_owned(),
                        text: String::new(),
                    });
                }
                Event::End(TagEnd::CodeBlock) => found.parts.extend(part.take()),
                _ => {}
            }
        }
        found.text = text;
        found
    }
}

/// The anchor of a heading, as GitHub and mdbook make it.
fn slug(heading: &str) -> String {
    let kept = heading.trim().to_lowercase();
    kept.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c)).map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anchors_are_those_of_headings_and_of_html() {
        let text = "# `vyr run`: what's *new*?\n\n## Again\n\n## Again\n\n<a id=\"own\"></a>\n";
        let anchors: Vec<String> = Markdown::parse(text.to_owned()).anchors.into_iter().collect();
        assert_eq!(anchors, ["again", "again-1", "own", "vyr-run-whats-new"]);
    }

    #[test]
    fn links_have_their_places() {
        let text =
            "See [the `unit`](../unit), ![a](img/a.svg)\nand <img src=\"b.png\">, [one][two].\n\n[two]: c.md#x\n";
        let found = Markdown::parse(text.to_owned());
        let links: Vec<_> = found.links.iter().map(|link| (link.line, link.target.as_str())).collect();
        assert_eq!(links, [(1, "../unit"), (1, "img/a.svg"), (2, "b.png"), (2, "c.md#x")]);
        let (place, shown) = found.links[0].place.clone().unwrap();
        assert_eq!((&text[place], &text[shown]), ("[the `unit`](../unit)", "the `unit`"));
    }
}
