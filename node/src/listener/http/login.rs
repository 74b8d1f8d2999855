//! Who makes a request: `Authorization`, the cookie of a browser that has logged in, or a client certificate.
//!
//! Owns finding these in a request, `/login` and `/logout`. It must not decide what a user may do.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{
    ACCEPT, AUTHORIZATION, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, COOKIE, HeaderMap,
    HeaderValue, LOCATION, SET_COOKIE, X_FRAME_OPTIONS,
};
use hyper::http::request::Parts;
use hyper::{Response, StatusCode};
use waymeet_core::Subject;
use waymeet_core::credentials::Authorization;
use waymeet_core::permissions::Access;

use super::body::Body;
use super::problem::Problem;
use super::target::{Page, form_fields};
use super::{Connection, Service, read_body};
use crate::auth::{Credentials, LoginError, User, Who};
use crate::console;
use crate::metrics::Limit;

/// The longest body of `/login`.
const MAX_LOGIN_BYTES: usize = 4_096;
/// What the login page may do: send its form here. Nobody may frame it.
const LOGIN_POLICY: &str = "default-src 'none'; style-src 'self'; img-src data:; base-uri 'none'; \
    form-action 'self'; frame-ancestors 'none'";

impl Connection {
    /// Who makes the request. What it says itself goes before the certificate of its connection.
    ///
    /// # Errors
    /// 401 when credentials are wrong, or missing where they are asked for; 429 when there are too many logins.
    pub(super) async fn authenticate(&self, headers: &HeaderMap) -> Result<Who, Problem> {
        let auth = &self.service.node.shared.auth;
        if let Some(everybody) = auth.everybody() {
            return Ok(everybody);
        }
        if let Some(user) = self.identify(headers).await? {
            return Ok(Some(user));
        }
        match &self.protection.certificate {
            Some(certificate) if auth.is_asked() => {
                let credentials = Credentials::Certificate(&certificate.names);
                Ok(Some(auth.login(credentials, self.peer.ip()).outcome().await?))
            }
            _ => Ok(auth.nobody()?),
        }
    }

    /// Who the credentials in the request's headers are; `None` when it has none.
    pub(super) async fn identify(&self, headers: &HeaderMap) -> Result<Option<Arc<User>>, Problem> {
        let auth = &self.service.node.shared.auth;
        if !auth.is_asked() {
            return Ok(None);
        }
        let mut values = headers.get_all(AUTHORIZATION).iter();
        if let Some(value) = values.next() {
            let parsed = Authorization::parse(value.as_bytes());
            let (Ok(authorization), None) = (parsed, values.next()) else {
                return Err(LoginError::Wrong.into());
            };
            let credentials = match &authorization {
                Authorization::Basic { user, password } => Credentials::Password { user, password },
                Authorization::Bearer(token) => Credentials::Token(token),
            };
            return Ok(Some(auth.login(credentials, self.peer.ip()).outcome().await?));
        }
        let name = self.cookie_name();
        Ok(cookies(headers, &name).find_map(|cookie| auth.browser(cookie)))
    }

    /// Logs a web browser in.
    pub(super) async fn login(&self, head: &Parts, body: &mut Incoming) -> Result<Response<Body>, Problem> {
        let limits = &self.service.limits.http;
        let fields = read_body(body, MAX_LOGIN_BYTES, self.service.budget(), limits.body_read_timeout).await;
        let fields = fields.map_err(|error| {
            // How long a form may be, no key says.
            if let Some(limit) = error.limit().filter(|limit| *limit != Limit::MaxPayloadBytes) {
                self.service.node.metrics().limit_reached(limit);
            }
            Problem::new(StatusCode::BAD_REQUEST, "invalid", error.to_string())
        })?;
        let fields = Fields::parse(&fields, &head.headers)?;
        let auth = &self.service.node.shared.auth;
        let outcome = auth.login(fields.credentials(), self.peer.ip()).outcome().await;
        let is_page = accepts_html(&head.headers);
        let mut response = match outcome {
            Ok(user) => {
                let cookie = self.cookie(&auth.browser_login(user), auth.limits().browser_login_time);
                let mut response = Response::new(Body::Empty);
                *response.status_mut() = if is_page { StatusCode::SEE_OTHER } else { StatusCode::NO_CONTENT };
                response.headers_mut().insert(SET_COOKIE, cookie);
                response
            }
            Err(error) if is_page => login_page(StatusCode::UNAUTHORIZED, &error.to_string()),
            Err(error) => return Err(error.into()),
        };
        if response.status() == StatusCode::SEE_OTHER {
            response.headers_mut().insert(LOCATION, HeaderValue::from_static("/"));
        }
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        Ok(response)
    }

    /// Logs a web browser out.
    pub(super) fn logout(&self, head: &Parts) -> Response<Body> {
        let name = self.cookie_name();
        for cookie in cookies(&head.headers, &name) {
            self.service.node.shared.auth.browser_logout(cookie);
        }
        let mut response = Response::new(Body::Empty);
        *response.status_mut() = StatusCode::NO_CONTENT;
        response.headers_mut().insert(SET_COOKIE, self.cookie("", Duration::ZERO));
        response
    }

    /// Cookies know no ports: two nodes on one machine would log each other's browsers out.
    fn cookie_name(&self) -> String {
        format!("waymeet_login_{}", self.local.port())
    }

    /// Out of scripts' reach, never sent along from another site, nor in the clear where it came encrypted.
    fn cookie(&self, value: &str, life: Duration) -> HeaderValue {
        let name = self.cookie_name();
        let secure = if self.protection.is_encrypted { "; Secure" } else { "" };
        let life = life.as_secs();
        let text = format!("{name}={value}; Path=/; Max-Age={life}; HttpOnly; SameSite=Strict{secure}");
        HeaderValue::from_str(&text).expect("base64 and numbers are visible ASCII")
    }
}

impl Service {
    /// What a page asks of a user: to see something of the node is to subscribe to a subject of the node's.
    ///
    /// # Errors
    /// 403 when the user may not see it.
    pub(super) fn check_page(&self, page: Page, who: &Who) -> Result<(), Problem> {
        let (Some(user), Some(subject)) = (who, page.subject()) else { return Ok(()) };
        let subject = Subject::new(subject).expect("the names of the node's subjects are subjects");
        match user.policy().permissions.subscribe_access(subject.into(), None) {
            Access::None => Err(Problem::no_permission()),
            Access::All | Access::Some => Ok(()),
        }
    }
}

/// The page that asks a browser's user who he is.
pub(super) fn login_page(status: StatusCode, notice: &str) -> Response<Body> {
    let mut response = Response::new(Body::full(console::login(notice)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(LOGIN_POLICY));
    headers.insert(X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    // Under `no-referrer` a browser would call the origin of the form `null` (Fetch, section 3.2, "append a request
    // `Origin` header"), and the guard would take the login for a stranger's.
    headers.insert("referrer-policy", HeaderValue::from_static("same-origin"));
    response
}

/// Whether a browser asks for a page, and not a program for an answer.
pub(super) fn accepts_html(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    accepted.flat_map(|value| value.split(',')).any(|range| range.trim().starts_with("text/html"))
}

/// The values of the cookies with this name (RFC 6265, section 5.4).
fn cookies<'a>(headers: &'a HeaderMap, name: &'a str) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    let pairs = values.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.filter(move |(cookie, _)| *cookie == name).map(|(_, value)| value)
}

/// What a login form holds.
#[derive(Default, serde::Deserialize)]
#[serde(default)]
struct Fields {
    user: String,
    password: String,
    token: String,
}

impl Fields {
    /// Reads an HTML form, or JSON.
    fn parse(body: &[u8], headers: &HeaderMap) -> Result<Self, Problem> {
        let bad = || {
            let detail = "a login is a form or a JSON object with user and password, or with token";
            Problem::new(StatusCode::BAD_REQUEST, "invalid", detail)
        };
        let text = std::str::from_utf8(body).map_err(|_| bad())?;
        let is_json =
            headers.get(CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/json"));
        let fields = if is_json {
            serde_json::from_str(text).map_err(|_| bad())?
        } else {
            let mut fields = Self::default();
            for (name, value) in form_fields(text) {
                let (Ok(name), Ok(value)) = (name, value) else { return Err(bad()) };
                let value: Cow<'_, str> = value;
                match &*name {
                    "user" => fields.user = value.into_owned(),
                    "password" => fields.password = value.into_owned(),
                    "token" => fields.token = value.into_owned(),
                    _ => {}
                }
            }
            fields
        };
        if fields.user.is_empty() && fields.token.is_empty() { Err(bad()) } else { Ok(fields) }
    }

    fn credentials(&self) -> Credentials<'_> {
        match self.token.is_empty() {
            true => Credentials::Password { user: &self.user, password: &self.password },
            false => Credentials::Token(&self.token),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_is_found_among_others() {
        let mut headers = HeaderMap::new();
        headers.append(COOKIE, HeaderValue::from_static("a=1; waymeet_login_80=x=y; b"));
        headers.append(COOKIE, HeaderValue::from_static("waymeet_login_80=z"));
        assert_eq!(cookies(&headers, "waymeet_login_80").collect::<Vec<_>>(), ["x=y", "z"]);
        assert_eq!(cookies(&headers, "waymeet_login_8").count(), 0);
    }

    #[test]
    fn forms_and_json_are_read() {
        let mut json = HeaderMap::new();
        json.insert(CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"));
        let form = HeaderMap::new();
        for (body, headers) in
            [(&b"user=ada&password=a%26+b&x=1"[..], &form), (br#"{"user":"ada","password":"a& b"}"#, &json)]
        {
            let fields = Fields::parse(body, headers).unwrap();
            assert!(matches!(fields.credentials(), Credentials::Password { user: "ada", password: "a& b" }));
        }
        assert!(matches!(Fields::parse(b"token=t", &form).unwrap().credentials(), Credentials::Token("t")));
        for (body, headers) in [(&b""[..], &form), (b"user=%", &form), (b"\xff", &form), (b"[]", &json)] {
            assert_eq!(Fields::parse(body, headers).err().unwrap().status, 400);
        }
    }
}
