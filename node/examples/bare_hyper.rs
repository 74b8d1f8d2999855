//! A bare hyper server that answers every POST with its body: what the node's requests are measured against.
//!
//! Owns nothing but the comparison: one thread, no routing, no limits, no timers. It must not be cheaper than
//! hyper lets a server be, nor dearer. `cargo run --release --example bare_hyper -- 127.0.0.1:0`

use std::convert::Infallible;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:0".to_owned());
    let listener = TcpListener::bind(address).await?;
    println!("{}", listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(async move {
            // A client that breaks off ends its own connection only.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(echo)).await;
        });
    }
}

async fn echo(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let answer = |status, body| {
        let mut response = Response::new(Full::new(body));
        *response.status_mut() = status;
        Ok(response)
    };
    if request.method() != Method::POST {
        return answer(StatusCode::METHOD_NOT_ALLOWED, Bytes::new());
    }
    match request.into_body().collect().await {
        Ok(body) => answer(StatusCode::OK, body.to_bytes()),
        Err(_) => answer(StatusCode::BAD_REQUEST, Bytes::new()),
    }
}
