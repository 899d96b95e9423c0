//! The demo page, embedded: `/` and its parts under `/demo/`. Nothing is loaded from elsewhere, and the browser is
//! told so.

use std::sync::Arc;

use axum::Router;
use axum::http::HeaderName;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use axum::routing::get;

use super::Api;

/// One file of the page.
struct Asset {
    name: &'static str,
    text: &'static str,
}

macro_rules! assets {
    ($($name:literal),+ $(,)?) => {
        &[$(Asset { name: $name, text: include_str!(concat!("../../demo/", $name)) }),+]
    };
}

/// Every file of `node/demo`.
const ASSETS: &[Asset] = assets![
    "app.js",
    "call.js",
    "callview.js",
    "copy.js",
    "credentials.js",
    "figures.js",
    "graph.js",
    "icon.svg",
    "index.html",
    "key.js",
    "negotiate.js",
    "networktest.js",
    "page.js",
    "parts.css",
    "picture.js",
    "source.js",
    "stats.js",
    "still.svg",
    "style.css",
    "testview.js",
    "words.js",
];

/// Only what this server sends runs or is shown; nobody may put the page into a frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; \
                      media-src 'self' blob: mediastream:; connect-src 'self'; form-action 'self'; \
                      base-uri 'none'; frame-ancestors 'none'";

/// Routes of the page.
pub(super) fn router() -> Router<Arc<Api>> {
    ASSETS.iter().fold(Router::new(), |router, asset| {
        let path = if asset.name == "index.html" { "/".to_owned() } else { format!("/demo/{}", asset.name) };
        router.route(&path, get(move || async move { (headers(asset), asset.text) }))
    })
}

fn headers(asset: &Asset) -> [(HeaderName, &'static str); 5] {
    [
        (CONTENT_TYPE, content_type(asset.name)),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        // Another version of the server has another page at the same place.
        (CACHE_CONTROL, "no-cache"),
    ]
}

fn content_type(name: &str) -> &'static str {
    match name.rsplit_once('.') {
        Some((_, "html")) => "text/html; charset=utf-8",
        Some((_, "css")) => "text/css; charset=utf-8",
        Some((_, "js")) => "text/javascript; charset=utf-8",
        Some((_, "svg")) => "image/svg+xml",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_the_page_is_embedded_with_a_known_type() {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/demo");
        let mut present: Vec<String> = std::fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        present.sort();
        let embedded: Vec<&str> = ASSETS.iter().map(|asset| asset.name).collect();
        assert_eq!(embedded, present);
        assert!(ASSETS.iter().all(|asset| content_type(asset.name) != "application/octet-stream"));
    }

    #[test]
    fn the_page_holds_nothing_that_its_policy_forbids() {
        for asset in ASSETS.iter().filter(|asset| asset.name.ends_with("html")) {
            for word in [" style=", " onclick=", "<style", "<script>", "javascript:", "http://", "https://"] {
                assert!(!asset.text.contains(word), "{} has {word}", asset.name);
            }
        }
    }
}
