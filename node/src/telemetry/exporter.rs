//! Sending finished spans to a collector: OTLP over HTTP with protobuf.
//!
//! Owns the connection, the batches on it and when they are tried again (OTLP 1.x, "OTLP/HTTP Response" and "OTLP/HTTP
//! Throttling"). What cannot be sent for too long is dropped and counted: the next spans come meanwhile.

use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::header::{CONTENT_TYPE, RETRY_AFTER, USER_AGENT};
use hyper::{Method, Request, Response, StatusCode, Uri};
use prost::Message as _;

use super::otlp::{
    ExportTraceServiceRequest, ExportTraceServiceResponse, InstrumentationScope, KeyValue, Resource,
    ResourceSpans, ScopeSpans,
};
use super::{Outcome, Telemetry};
use crate::shared::NodeInfo;
use crate::tls::TlsError;
use crate::tls::client::{self, Trust};
use crate::tls::https::{Bounds, HttpsClient, https_client};

/// Behind the endpoint, as for `OTEL_EXPORTER_OTLP_ENDPOINT`.
const TRACES_PATH: &str = "/v1/traces";
/// How long the collector may take for one batch. OpenTelemetry's own default.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long an unused connection is kept.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// The longest answer that is read.
const MAX_ANSWER_BYTES: usize = 64 * 1024;
/// The pauses before a batch is tried again double from the first to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// For how long a batch is tried.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where spans are posted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint(Uri);

/// The text names no collector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum EndpointError {
    /// It is no URL of an HTTP server.
    #[error("expected the URL of a collector that takes OTLP over HTTP, such as http://127.0.0.1:4318")]
    Url,
    /// Nothing would be done with it.
    #[error("expected a URL without credentials, a query and a fragment; /v1/traces is put behind it")]
    TooMuch,
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let uri: Uri = text.parse().map_err(|_| EndpointError::Url)?;
        let is_web = matches!(uri.scheme_str(), Some("http" | "https"));
        let authority = uri.authority().filter(|authority| is_web && !authority.host().is_empty());
        let authority = authority.ok_or(EndpointError::Url)?;
        if authority.as_str().contains('@') || uri.query().is_some() || text.contains('#') {
            return Err(EndpointError::TooMuch);
        }
        let base = text.trim_end_matches('/');
        let whole = base.strip_suffix(TRACES_PATH).unwrap_or(base);
        format!("{whole}{TRACES_PATH}").parse().map(Self).map_err(|_| EndpointError::Url)
    }
}

/// What a batch has come to.
#[derive(Debug)]
enum Failure {
    /// The collector does not want it; it would not want it later either.
    Refused(String),
    /// It may be tried again, not before so long if the collector says so.
    Passing(String, Option<Duration>),
}

/// Sends what a [`Telemetry`] has.
pub(crate) struct Exporter {
    telemetry: Arc<Telemetry>,
    endpoint: Endpoint,
    client: HttpsClient<Full<Bytes>>,
    resource: Resource,
    /// The collector did not take the last batch, and the log says so.
    is_failing: bool,
}

impl Exporter {
    /// # Errors
    /// When there is nobody to trust.
    pub(crate) fn new(
        telemetry: Arc<Telemetry>,
        endpoint: Endpoint,
        info: &NodeInfo,
    ) -> Result<Self, TlsError> {
        let bounds = Bounds { connect_timeout: TIMEOUT, idle_timeout: IDLE_TIMEOUT, max_idle: 1 };
        let client = https_client(&client::config(Trust::default())?, bounds);
        let attributes = vec![
            KeyValue::text("service.name", "waymeet"),
            KeyValue::text("service.version", info.version),
            KeyValue::text("service.instance.id", &info.id),
            KeyValue::text("waymeet.node.name", &info.name),
        ];
        Ok(Self { telemetry, endpoint, client, resource: Resource { attributes }, is_failing: false })
    }

    /// Runs until the telemetry is finished and everything is sent.
    pub(crate) async fn run(mut self) {
        tracing::info!(endpoint = %self.endpoint.0, "spans are sent to a collector");
        let telemetry = self.telemetry.clone();
        let Some(queue) = &telemetry.queue else { return };
        while let Some(spans) = queue.next().await {
            let count = spans.len() as u64;
            let body = self.encode(spans);
            self.deliver(&body, count).await;
        }
        telemetry.is_done.send_replace(true);
    }

    fn encode(&self, spans: Vec<Vec<u8>>) -> Bytes {
        let scope = InstrumentationScope {
            name: "waymeet".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let scope_spans = vec![ScopeSpans { scope: Some(scope), spans }];
        let resource_spans = vec![ResourceSpans { resource: Some(self.resource.clone()), scope_spans }];
        ExportTraceServiceRequest { resource_spans }.encode_to_vec().into()
    }

    /// Sends one batch, as often as it takes and makes sense.
    async fn deliver(&mut self, body: &Bytes, spans: u64) {
        let telemetry = self.telemetry.clone();
        let Some(queue) = &telemetry.queue else { return };
        let (began, mut pause) = (Instant::now(), FIRST_PAUSE);
        loop {
            let (why, after) = match self.post(body).await {
                Ok(rejected) => {
                    let rejected = rejected.min(spans);
                    telemetry.count(Outcome::Refused, rejected);
                    telemetry.count(Outcome::Exported, spans - rejected);
                    if std::mem::take(&mut self.is_failing) {
                        tracing::info!("the collector takes spans again");
                    }
                    return;
                }
                Err(Failure::Refused(why)) => {
                    tracing::warn!(why, spans, "the collector refuses spans");
                    return telemetry.count(Outcome::Refused, spans);
                }
                Err(Failure::Passing(why, after)) => (why, after),
            };
            if !std::mem::replace(&mut self.is_failing, true) {
                tracing::warn!(why, endpoint = %self.endpoint.0, "spans cannot be sent; they are tried again");
            }
            // Half of it is chance, so that nodes do not come back all at once.
            let wait = after
                .unwrap_or(pause)
                .mul_f64(0.5 + rand::random::<f64>() / 2.0)
                .max(after.unwrap_or_default());
            if queue.is_closed() || began.elapsed() + wait > PATIENCE {
                tracing::debug!(spans, "spans are given up");
                return telemetry.count(Outcome::Unsent, spans);
            }
            // A node that ends tries once more, at once.
            let _ = tokio::time::timeout(wait, queue.closed()).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Posts a batch once; how many of its spans the collector did not want.
    async fn post(&self, body: &Bytes) -> Result<u64, Failure> {
        let request = Request::builder()
            .method(Method::POST)
            .uri(self.endpoint.0.clone())
            .header(CONTENT_TYPE, "application/x-protobuf")
            .header(USER_AGENT, concat!("waymeet/", env!("CARGO_PKG_VERSION")))
            .body(Full::new(body.clone()))
            .map_err(|error| Failure::Refused(error.to_string()))?;
        let exchange = async {
            let response = self.client.request(request).await.map_err(|error| passing(&error))?;
            let (head, body) = response.into_parts();
            let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await;
            let body = body.map_err(|error| Failure::Passing(error.to_string(), None))?;
            read(&Response::from_parts(head, body.to_bytes()))
        };
        let none = || Err(Failure::Passing(format!("no answer within {TIMEOUT:?}"), None));
        tokio::time::timeout(TIMEOUT, exchange).await.unwrap_or_else(|_| none())
    }
}

/// What an answer says: how many spans were not wanted.
fn read(response: &Response<Bytes>) -> Result<u64, Failure> {
    let status = response.status();
    if status.is_success() {
        // An answer that cannot be read has no say: the batch was taken.
        let answer = ExportTraceServiceResponse::decode(&response.body()[..]).unwrap_or_default();
        let Some(partial) = answer.partial_success else { return Ok(0) };
        if !partial.error_message.is_empty() {
            let (why, rejected) = (&partial.error_message, partial.rejected_spans);
            tracing::warn!(%why, rejected, "the collector says something about the spans");
        }
        return Ok(u64::try_from(partial.rejected_spans).unwrap_or_default());
    }
    let why = format!("the collector answers {status}");
    let is_passing = matches!(
        status,
        StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT
    );
    if !is_passing {
        return Err(Failure::Refused(why));
    }
    let after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    Err(Failure::Passing(why, after.map(Duration::from_secs)))
}

fn passing(error: &dyn std::error::Error) -> Failure {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    Failure::Passing(cause.to_string(), None)
}

#[cfg(test)]
mod tests {
    use super::super::otlp::ExportTracePartialSuccess;
    use super::*;

    #[test]
    fn endpoints_are_those_of_other_exporters() {
        let uri = |text: &str| text.parse::<Endpoint>().map(|endpoint| endpoint.0.to_string());
        for (text, expected) in [
            ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/traces"),
            ("http://[::1]:4318/", "http://[::1]:4318/v1/traces"),
            ("https://otel.example/tenant/a", "https://otel.example/tenant/a/v1/traces"),
            ("http://h:4318/v1/traces", "http://h:4318/v1/traces"),
        ] {
            assert_eq!(uri(text).as_deref(), Ok(expected), "{text}");
        }
        for text in ["", "h:4318", "127.0.0.1:4318", "grpc://h:4317", "/v1/traces", "http://"] {
            assert_eq!(uri(text), Err(EndpointError::Url), "{text}");
        }
        for text in ["http://user:secret@h", "http://h/?token=a", "http://h/#a"] {
            assert_eq!(uri(text), Err(EndpointError::TooMuch), "{text}");
        }
    }

    #[test]
    fn answers_are_read_as_the_specification_has_them() {
        let answer = |status: u16, body: Vec<u8>| {
            let response = Response::builder().status(status).header("retry-after", "7");
            read(&response.body(Bytes::from(body)).unwrap())
        };
        assert!(matches!(answer(200, Vec::new()), Ok(0)));
        let partial_success =
            Some(ExportTracePartialSuccess { rejected_spans: 3, error_message: "too old".to_owned() });
        let partial = ExportTraceServiceResponse { partial_success }.encode_to_vec();
        assert!(matches!(answer(200, partial), Ok(3)));
        assert!(matches!(answer(200, b"what?".to_vec()), Ok(0)));
        for status in [429, 502, 503, 504] {
            let Err(Failure::Passing(_, Some(after))) = answer(status, Vec::new()) else {
                panic!("{status}")
            };
            assert_eq!(after, Duration::from_secs(7));
        }
        for status in [400, 401, 404, 413, 500, 302] {
            assert!(matches!(answer(status, Vec::new()), Err(Failure::Refused(_))), "{status}");
        }
    }
}
