//! The house's own rules: imports point downwards, and every span that is named is emitted.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Lower may not import higher; equal ranks may see each other only where listed in the module docs of `src/lib.rs`.
const RANKS: &[(&str, u8)] = &[
    ("error", 1),
    ("oci", 1),
    ("sqlite", 1),
    ("config", 2),
    ("telemetry", 2),
    ("artifact", 2),
    ("registry", 2),
    ("store", 2),
    ("task", 2),
    ("trust", 3),
    ("confine", 3),
    ("state", 3),
    ("db", 3),
    ("receipt", 4),
    ("engine", 4),
    ("fallback", 5),
    ("ops", 6),
    ("node", 7),
    ("server", 8),
    ("cli", 9),
];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

fn rank(module: &str) -> Option<u8> {
    RANKS.iter().find(|(name, _)| *name == module).map(|(_, rank)| *rank)
}

#[test]
fn imports_point_downwards() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let (mut upward, mut seen) = (Vec::new(), 0);
    for file in files {
        let inside = file.strip_prefix(&root).unwrap();
        let module = inside.components().next().unwrap().as_os_str().to_string_lossy().replace(".rs", "");
        if inside.components().any(|c| c.as_os_str().to_string_lossy().starts_with("test")) {
            continue;
        }
        let Some(own) = rank(&module) else { continue };
        let text = fs::read_to_string(&file).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap();
        for (at, _) in code.match_indices("crate::") {
            let name: String = code[at + 7..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            if let Some(other) = rank(&name) {
                seen += 1;
                if other > own || (other == own && name != module && own > 1) {
                    upward.push(format!("{} imports {name}", inside.display()));
                }
            }
        }
    }
    assert!(seen > 50, "the reading of imports found only {seen}");
    assert!(upward.is_empty(), "{upward:#?}");
}

#[test]
fn the_telemetry_page_lists_the_spans_that_are_named() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let code = fs::read_to_string(root.join("src/telemetry/names.rs")).unwrap();
    let named: BTreeSet<&str> =
        code.lines().filter_map(|l| l.trim().strip_prefix("pub const ")?.split('"').nth(1)).collect();
    assert!(named.contains("pull") && named.len() >= 7, "{named:?}");
    let page = fs::read_to_string(root.join("docs/telemetry.md")).unwrap();
    for name in named {
        assert!(page.contains(&format!("| `{name}` |")), "docs/telemetry.md lacks the span `{name}`");
    }
}
