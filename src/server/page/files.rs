//! Owns the page's parts, which are in the binary: markup, style, scripts and the icon.

use std::sync::LazyLock;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use axum::response::IntoResponse as _;

use crate::oci::sha256_bytes;

/// One part.
#[derive(Debug)]
pub(super) struct File {
    path: &'static str,
    media_type: &'static str,
    text: &'static str,
}

macro_rules! file {
    ($path:literal, $media_type:expr, $name:literal) => {
        File { path: $path, media_type: $media_type, text: include_str!(concat!("assets/", $name)) }
    };
}

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

static FILES: [File; 11] = [
    file!("/", HTML, "index.html"),
    file!("/page/style.css", "text/css; charset=utf-8", "style.css"),
    file!("/page/icon.svg", "image/svg+xml", "icon.svg"),
    file!("/page/app.js", SCRIPT, "app.js"),
    file!("/page/dom.js", SCRIPT, "dom.js"),
    file!("/page/tasks.js", SCRIPT, "tasks.js"),
    file!("/page/task.js", SCRIPT, "task.js"),
    file!("/page/waterfall.js", SCRIPT, "waterfall.js"),
    file!("/page/logs.js", SCRIPT, "logs.js"),
    file!("/page/artifacts.js", SCRIPT, "artifacts.js"),
    file!("/page/node.js", SCRIPT, "node.js"),
];

/// The parts' entity tags, in their order.
static TAGS: LazyLock<Vec<HeaderValue>> = LazyLock::new(|| {
    let tag = |file: &File| {
        let print = hex::encode(sha256_bytes(file.text.as_bytes()));
        HeaderValue::try_from(format!("\"{}\"", print.get(..16).unwrap_or_default()))
    };
    FILES.iter().map(|file| tag(file).unwrap_or(HeaderValue::from_static("\"\""))).collect()
});

/// The part at `path`, if it is one's.
pub(super) fn find(path: &str) -> Option<&'static File> {
    FILES.iter().find(|file| file.path == path)
}

impl File {
    /// Itself, or that what the browser has is it still. It is asked for each time: a new version of the node must not meet
    /// an old one's scripts.
    pub(super) fn answer(&'static self, headers: &HeaderMap) -> Response<Body> {
        let tag = FILES.iter().position(|file| file.path == self.path).and_then(|at| TAGS.get(at));
        let known = headers.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok()).zip(tag).is_some_and(
            |(known, tag)| known.split(',').any(|one| one.trim().trim_start_matches("W/").as_bytes() == tag.as_bytes()),
        );
        let mut answer = if known {
            StatusCode::NOT_MODIFIED.into_response()
        } else {
            ([(header::CONTENT_TYPE, self.media_type)], self.text).into_response()
        };
        answer.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        if let Some(tag) = tag {
            answer.headers_mut().insert(header::ETAG, tag.clone());
        }
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_small_and_asks_nobody_else() {
        assert!(FILES.iter().map(|file| file.text.len()).sum::<usize>() < 100 << 10);
        for file in &FILES {
            // The one address is a name: that of SVG's elements.
            let text = file.text.replace("http://www.w3.org/2000/svg", "");
            for word in
                ["http:", "https:", "//cdn", "@import", "innerHTML", "outerHTML", "insertAdjacent", "document.write"]
            {
                assert!(!text.contains(word), "{} has `{word}`", file.path);
            }
            assert!(text.lines().count() <= 500, "{}", file.path);
        }
    }

    #[test]
    fn what_the_page_imports_is_there() {
        for file in &FILES {
            let quoted =
                file.text.split(['"', '\'']).filter(|word| word.starts_with("./") || word.starts_with("/page/"));
            for word in quoted.filter(|word| !word.starts_with("/page/v0")) {
                let path = word.replacen("./", "/page/", 1);
                assert!(find(&path).is_some(), "{} asks for {word}", file.path);
            }
        }
    }

    #[test]
    fn what_a_browser_has_is_not_sent_again() {
        let file = find("/page/app.js").unwrap();
        let first = file.answer(&HeaderMap::new());
        let tag = first.headers()[header::ETAG].clone();
        let mut headers = HeaderMap::new();
        headers.insert(header::IF_NONE_MATCH, tag);
        assert_eq!(file.answer(&headers).status(), StatusCode::NOT_MODIFIED);
        headers.insert(header::IF_NONE_MATCH, HeaderValue::from_static("\"other\""));
        assert_eq!(file.answer(&headers).status(), StatusCode::OK);
    }
}
