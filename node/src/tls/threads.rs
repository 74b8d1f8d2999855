//! The threads on which hands are shaken.
//!
//! Owns them and bringing a stream back. A handshake costs as much as a thousand messages, in steps of some hundred
//! microseconds that nothing interrupts. On a worker each would keep every session there waiting; on a thread beside it, the
//! kernel lets the workers go first. A node without TLS has none of these threads, and one with TLS from the first handshake
//! on. It must not know what a handshake is.

use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio_util::task::AbortOnDropHandle;

/// How much lower than the workers' their priority is (nice(2)): a third of a core that both want, so that a flood of
/// handshakes holds up neither the sessions nor, for long, the handshakes of others.
#[cfg(target_os = "linux")]
const NICENESS: i32 = 5;

#[derive(Debug)]
pub(super) struct Threads {
    /// `None` inside says that the system gave no thread.
    started: Box<[OnceLock<Option<Thread>>]>,
    next: AtomicUsize,
}

/// A thread that runs until this is dropped.
#[derive(Debug)]
struct Thread {
    runtime: Handle,
    _alive: oneshot::Sender<()>,
}

impl Threads {
    /// One for every two cores; none of them runs yet.
    pub(super) fn new() -> Self {
        let cores = thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self { started: (0..cores.div_ceil(2)).map(|_| OnceLock::new()).collect(), next: AtomicUsize::new(0) }
    }

    /// Carries out the work on the next thread, or here where there is none to be had. The work ends when nobody waits for
    /// it any more.
    ///
    /// # Errors
    /// When the work panics, or the node ends.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> io::Result<T> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed) % self.started.len();
        match self.started[turn].get_or_init(|| Thread::start(turn)) {
            Some(thread) => Ok(AbortOnDropHandle::new(thread.runtime.spawn(work)).await?),
            None => Ok(work.await),
        }
    }
}

impl Thread {
    fn start(number: usize) -> Option<Self> {
        let (alive, ended) = oneshot::channel::<()>();
        let runtime = Builder::new_current_thread().enable_all().build();
        let started = runtime.and_then(|runtime| {
            let handle = runtime.handle().clone();
            let body = move || {
                // Where it cannot be had, handshakes and sessions share a core by halves.
                #[cfg(target_os = "linux")]
                let _ = rustix::process::nice(NICENESS);
                // Nobody sends anything: the other end is dropped.
                let _ = runtime.block_on(ended);
            };
            thread::Builder::new().name(format!("tls-{number}")).spawn(body)?;
            Ok(Self { runtime: handle, _alive: alive })
        });
        started.inspect_err(|error| tracing::warn!(%error, "handshakes have no thread of their own")).ok()
    }
}

/// Lets the runtime of the caller poll a stream that another one has polled.
pub(super) fn bring_back(stream: &mut TcpStream) -> io::Result<()> {
    // The stream cannot be taken out of what surrounds it. Another descriptor of the same socket can take its place.
    let again = SockRef::from(&*stream).try_clone()?;
    *stream = TcpStream::from_std(again.into())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn work_is_done_elsewhere_and_its_stream_comes_back() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let stream = stream.into_std().unwrap();
        let threads = Threads::new();
        client.write_all(b"a").await.unwrap();
        let work = async {
            let mut stream = TcpStream::from_std(stream).unwrap();
            let heard = stream.read_u8().await.unwrap();
            (thread::current().name().map(str::to_owned), heard, stream)
        };
        let (name, heard, mut stream) = threads.run(work).await.unwrap();
        assert_eq!((name.as_deref(), heard), (Some("tls-0"), b'a'));
        bring_back(&mut stream).unwrap();
        // The runtime that has polled it ends, and the stream lives on.
        drop(threads);
        client.write_all(b"b").await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), b'b');
    }

    #[tokio::test]
    async fn work_ends_with_whoever_waits_for_it() {
        let threads = Threads::new();
        let (holds, held) = oneshot::channel::<()>();
        let work = threads.run(async move {
            let _holds = holds;
            std::future::pending::<()>().await;
        });
        tokio::select! {
            biased;
            _ = work => panic!("it never ends by itself"),
            () = tokio::task::yield_now() => {}
        }
        assert!(held.await.is_err(), "what the work held is dropped");
    }
}
