//! A bare hyper server of event streams: what the node's fan-out to SSE readers is measured against.
//!
//! `GET /sub/x` opens a stream, `POST /pub/x` sends its body as one event to all readers. Owns the cheapest
//! honest way to do that: one thread, one shared copy of an event, a bounded queue a reader. There is one
//! subject, no envelope, no id and no account of what a slow reader misses.
//! `cargo run --release --example bare_sse -- 127.0.0.1:0`

use std::cell::RefCell;
use std::convert::Infallible;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::task::LocalSet;

/// Events that wait for one reader; the next ones are lost for it.
const QUEUE_EVENTS: usize = 1_024;

type Readers = Rc<RefCell<Vec<mpsc::Sender<Bytes>>>>;

/// What a response carries.
enum Answer {
    Empty,
    Events(mpsc::Receiver<Bytes>),
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut *self {
            Self::Empty => Poll::Ready(None),
            Self::Events(events) => events.poll_recv(cx).map(|event| event.map(|e| Ok(Frame::data(e)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Empty)
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Events(_) => SizeHint::default(),
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:0".to_owned());
    let listener = TcpListener::bind(address).await?;
    println!("{}", listener.local_addr()?);
    LocalSet::new().run_until(serve(listener)).await
}

async fn serve(listener: TcpListener) -> Result<(), Box<dyn std::error::Error>> {
    let readers = Readers::default();
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let readers = readers.clone();
        tokio::task::spawn_local(async move {
            let service = service_fn(move |request| answer(request, readers.clone()));
            // A client that breaks off ends its own connection only.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(request: Request<Incoming>, readers: Readers) -> Result<Response<Answer>, Infallible> {
    let mut response = Response::new(Answer::Empty);
    match (request.method(), request.uri().path()) {
        (&Method::GET, path) if path.starts_with("/sub/") => {
            let (sender, receiver) = mpsc::channel(QUEUE_EVENTS);
            readers.borrow_mut().push(sender);
            *response.body_mut() = Answer::Events(receiver);
            let headers = response.headers_mut();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        }
        (&Method::POST, path) if path.starts_with("/pub/") => {
            *response.status_mut() = match request.into_body().collect().await {
                Ok(body) => {
                    let event = Bytes::from([b"data: ", &*body.to_bytes(), b"\n\n"].concat());
                    send(&mut readers.borrow_mut(), &event);
                    StatusCode::ACCEPTED
                }
                Err(_) => StatusCode::BAD_REQUEST,
            };
        }
        _ => *response.status_mut() = StatusCode::NOT_FOUND,
    }
    Ok(response)
}

/// Gives the event to every reader and forgets those that have left.
fn send(readers: &mut Vec<mpsc::Sender<Bytes>>, event: &Bytes) {
    readers.retain(|reader| !matches!(reader.try_send(event.clone()), Err(TrySendError::Closed(_))));
}
