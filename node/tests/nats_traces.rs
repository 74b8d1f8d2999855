//! The golden NATS traces against a live socket.

#[path = "../../traces/trace.rs"]
mod trace;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use trace::Step;
use waymeet::Node;
use waymeet::config::{Address, Config};

/// So long may an answer take before the test fails.
const PATIENCE: Duration = Duration::from_secs(10);

fn config() -> Config {
    let mut config = Config::default();
    config.listeners.nats.address = "127.0.0.1:0".parse().unwrap();
    config.listeners.coap.address = Address::Off;
    config.listeners.http.address = Address::Off;
    config.mesh.address = Address::Off;
    config
}

fn replay(name: &str, address: SocketAddr, steps: &[Step]) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut info = String::new();
    reader.read_line(&mut info).unwrap();
    assert!(info.starts_with("INFO {"), "{info}");
    for step in steps {
        match step {
            Step::Client(bytes) => stream.write_all(bytes).unwrap(),
            Step::Server(expected) => {
                let mut answer = vec![0; expected.len()];
                reader.read_exact(&mut answer).unwrap_or_else(|error| {
                    panic!("{name}: {error} instead of {}", expected.escape_ascii());
                });
                let (answer, expected) = (answer.escape_ascii(), expected.escape_ascii());
                assert_eq!(answer.to_string(), expected.to_string(), "{name}");
            }
            Step::Closed => {
                let mut rest = Vec::new();
                // A reset is a close as well: bytes that the node did not read were still in its socket.
                let _ = reader.read_to_end(&mut rest);
                assert!(rest.is_empty(), "{name} sent more: {}", rest.escape_ascii());
            }
        }
    }
}

#[tokio::test]
async fn the_listener_answers_as_the_traces_say() {
    let node = Node::builder().config(config()).workers(2).start().await.unwrap();
    let address = node.addresses().nats.unwrap();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../traces/nats");
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let steps = trace::parse(&std::fs::read_to_string(&path).unwrap());
        // The node serves on threads of its own; this one may block.
        replay(&path.display().to_string(), address, &steps);
    }
    node.drain().await;
}
