//! The resources with a fixed path: health, metrics, peers, the API's description and the console.
//!
//! Owns serving what the node says about itself. It must not compute it.

use hyper::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue, X_FRAME_OPTIONS};
use hyper::{Response, StatusCode};
use serde::Serialize;

use super::Service;
use super::body::Body;
use super::problem::Problem;
use super::target::Page;
use crate::console;
use crate::handle::NodeHandle;

/// The API in OpenAPI 3.1. The version is filled in when it is served.
const OPENAPI: &str = include_str!("openapi.json");
/// What stands in that document for the program's version.
const VERSION_MARK: &str = "{version}";
/// What the console may load: itself. Nobody may frame it.
const CONSOLE_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
    img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

impl Service {
    /// A page, as whoever `node` acts for sees it.
    pub(super) fn page(&self, node: &NodeHandle, page: Page) -> Result<Response<Body>, Problem> {
        Ok(match page {
            Page::Console => console(console::page(node)),
            Page::ConsoleScript => text("text/javascript; charset=utf-8", console::SCRIPT),
            Page::ConsoleStyle => text("text/css; charset=utf-8", console::STYLE),
            Page::Health => text("application/json", r#"{"status":"ok"}"#),
            Page::Ready if self.node.is_ready() => text("application/json", r#"{"status":"ready"}"#),
            Page::Ready => {
                let detail = "the node is starting or shutting down";
                return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "not_ready", detail));
            }
            Page::Metrics => {
                response("text/plain; version=0.0.4; charset=utf-8", Body::full(self.node.metrics().encode()))
            }
            Page::OpenApi => {
                let document = OPENAPI.replace(VERSION_MARK, node.info().version);
                response("application/json", Body::full(document))
            }
            Page::Peers => response("application/json", Body::full(self.node.peers().to_json())),
        })
    }
}

fn console(html: String) -> Response<Body> {
    let mut response = response("text/html; charset=utf-8", Body::full(html));
    let headers = response.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(CONSOLE_POLICY));
    headers.insert(X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    headers.insert("referrer-policy", HeaderValue::from_static("no-referrer"));
    response
}

/// An answer of this moment in JSON.
pub(super) fn json(answer: &impl Serialize) -> Response<Body> {
    let json = serde_json::to_vec(answer).expect("structs of texts and finite numbers are always JSON");
    response("application/json", Body::full(json))
}

fn text(content_type: &'static str, text: &'static str) -> Response<Body> {
    response(content_type, Body::full(text))
}

pub(super) fn response(content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    // State of this moment, and files that change with the program.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::super::target::Target;
    use super::*;
    use serde_json::Value;

    /// What the document describes is served, with those methods and no others.
    #[test]
    fn the_description_is_true() {
        let document: Value = serde_json::from_str(OPENAPI).unwrap();
        assert_eq!(document["openapi"], "3.1.0");
        assert_eq!(document["info"]["version"], VERSION_MARK);
        let paths = document["paths"].as_object().unwrap();
        for (path, item) in paths {
            let path = path.replace("{subject}", "a.b").replace("{filter}", "a.*").replace("{id}", "7");
            let target = Target::parse(&path, Some("filter=a")).unwrap_or_else(|e| panic!("{path}: {e}"));
            let mut described: Vec<_> = item
                .as_object()
                .unwrap()
                .keys()
                .filter(|key| *key != "parameters" && *key != "summary")
                .map(|method| method.to_uppercase())
                .collect();
            let mut served: Vec<_> =
                target.allow().split(", ").filter(|m| !matches!(*m, "OPTIONS" | "HEAD")).collect();
            described.sort_unstable();
            served.sort_unstable();
            assert_eq!(described, served, "{path}");
        }
        for path in [
            "/pub/{subject}",
            "/req/{subject}",
            "/sub/{filter}",
            "/sub",
            "/trace/{filter}",
            "/trace",
            "/peers",
            "/sessions",
            "/sessions/{id}",
            "/varz",
            "/connz",
            "/subsz",
            "/routez",
            "/healthz",
            "/readyz",
            "/metrics",
            "/openapi.json",
            "/overview",
            "/subjects",
            "/",
        ] {
            assert!(paths.contains_key(path), "{path} is not described");
        }
        assert_references_resolve(&document, &document);
    }

    fn assert_references_resolve(value: &Value, document: &Value) {
        match value {
            Value::Object(map) => {
                if let Some(Value::String(reference)) = map.get("$ref") {
                    let pointer = reference.strip_prefix('#').expect("references are local");
                    assert!(document.pointer(pointer).is_some(), "{reference}");
                }
                map.values().for_each(|value| assert_references_resolve(value, document));
            }
            Value::Array(list) => list.iter().for_each(|value| assert_references_resolve(value, document)),
            _ => {}
        }
    }
}
