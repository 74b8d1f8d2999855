//! What sockets promise, over real ones: on loopback, where nothing is lost as long as buffers have room.

use std::net::{Ipv4Addr, UdpSocket as StdSocket};

use super::*;

fn runtime<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn client(address: &str) -> StdSocket {
    let socket = StdSocket::bind(address).unwrap();
    socket.set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
    socket
}

async fn receive(socket: &Socket, batch: &mut Batch) -> usize {
    loop {
        socket.readable().await.unwrap();
        match socket.receive(batch) {
            Ok(0) | Err(_) => {}
            Ok(received) => return received,
        }
    }
}

async fn send_all(socket: &Socket, datagrams: &[(Way, &[u8])]) {
    let mut sent = 0;
    while sent < datagrams.len() {
        sent += socket.send(datagrams[sent..].iter().copied()).await.unwrap();
    }
}

#[test]
fn many_datagrams_come_and_go_in_order() {
    runtime(async {
        let socket = Socket::new(bind("127.0.0.1:0".parse().unwrap()).unwrap()).unwrap();
        let address = socket.local_addr().unwrap();
        let client = client("127.0.0.1:0");
        for number in 0..70_u32 {
            client.send_to(&number.to_be_bytes(), address).unwrap();
        }
        // The longest that IPv4 carries, and the shortest.
        client.send_to(&[7; 65_507], address).unwrap();
        client.send_to(&[], address).unwrap();
        let mut batch = Batch::default();
        let mut heard: Vec<Vec<u8>> = Vec::new();
        while heard.len() < 72 {
            receive(&socket, &mut batch).await;
            for (way, datagram) in batch.iter() {
                assert_eq!((way.peer, way.local), (client.local_addr().unwrap(), None));
                heard.push(datagram.to_vec());
            }
        }
        assert!((0..70_u32).zip(&heard).all(|(number, datagram)| number.to_be_bytes() == datagram[..]));
        assert_eq!((heard[70].len(), heard[71].len()), (65_507, 0));
        let way = Way::to(client.local_addr().unwrap());
        let answers: Vec<(Way, &[u8])> = heard.iter().map(|datagram| (way, &datagram[..])).collect();
        send_all(&socket, &answers).await;
        let mut buffer = vec![0; MAX_DATAGRAM];
        for datagram in &heard {
            let (len, from) = client.recv_from(&mut buffer).unwrap();
            assert!(from == address && buffer[..len] == datagram[..]);
        }
    });
}

/// Asks at one of several addresses and says where the answer comes from.
#[cfg(target_os = "linux")]
fn answered_from(bound: &str, asker: &str, asked: SocketAddr) -> (SocketAddr, SocketAddr) {
    runtime(async {
        let socket = Socket::new(bind(bound.parse().unwrap()).unwrap()).unwrap();
        let asked = SocketAddr::new(asked.ip(), socket.local_addr().unwrap().port());
        let client = client(asker);
        client.send_to(b"?", asked).unwrap();
        let mut batch = Batch::default();
        assert_eq!(receive(&socket, &mut batch).await, 1);
        let (way, _) = batch.iter().next().unwrap();
        assert_eq!(way.peer, client.local_addr().unwrap());
        send_all(&socket, &[(way, b"!")]).await;
        (asked, client.recv_from(&mut [0; 8]).unwrap().1)
    })
}

#[cfg(target_os = "linux")]
#[test]
fn an_answer_leaves_from_the_address_that_was_asked() {
    for (bound, asker, asked) in [
        ("0.0.0.0:0", "127.0.0.1:0", "127.0.0.2:0"),
        ("[::]:0", "127.0.0.1:0", "127.0.0.2:0"),
        ("[::]:0", "[::1]:0", "[::1]:0"),
    ] {
        let (asked, answered) = answered_from(bound, asker, asked.parse().unwrap());
        assert_eq!(asked, answered, "bound to {bound}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn the_network_says_who_has_gone() {
    for (bound, gone) in [("127.0.0.1:0", "127.0.0.1:0"), ("[::]:0", "127.0.0.1:0"), ("[::1]:0", "[::1]:0")] {
        runtime(async {
            let socket = Socket::new(bind(bound.parse().unwrap()).unwrap()).unwrap();
            let (vanished, here) = (client(gone), client(gone));
            // An error is no datagram: what was read before is not read again.
            let mut batch = Batch::default();
            here.send_to(b"first", socket.local_addr().unwrap().to_string().replace("[::]", "127.0.0.1"))
                .unwrap();
            assert_eq!(receive(&socket, &mut batch).await, 1);
            let vanished = Way::to({ vanished }.local_addr().unwrap());
            let way = Way::to(here.local_addr().unwrap());
            assert_eq!(socket.send([(vanished, &b"anybody?"[..])].into_iter()).await.unwrap(), 1);
            socket.readable().await.unwrap();
            assert_eq!(socket.take_unreachable(), Some(Unreachable { peer: vanished.peer }), "{bound}");
            assert_eq!(socket.take_unreachable(), None);
            while let Err(error) = socket.receive(&mut batch) {
                assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
            }
            assert_eq!(batch.iter().count(), 0);
            // The error is reported to the next system call too, and does not cost a datagram.
            assert_eq!(socket.send([(way, &b"hello"[..])].into_iter()).await.unwrap(), 1);
            assert_eq!(here.recv(&mut [0; 8]).unwrap(), 5);
        });
    }
}

#[cfg(target_os = "linux")]
#[test]
fn what_the_kernel_drops_is_known() {
    runtime(async {
        let bound = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        socket2::SockRef::from(&bound).set_recv_buffer_size(4_096).unwrap();
        let socket = Socket::new(bound).unwrap();
        let mut drops = socket.drops();
        assert_eq!(drops(), Some(0));
        let client = client("127.0.0.1:0");
        // On loopback a datagram is in the buffer, or dropped, when the call that sends it returns.
        for _ in 0..100 {
            client.send_to(&[0; 1_000], socket.local_addr().unwrap()).unwrap();
        }
        let mut batch = Batch::default();
        let received = receive(&socket, &mut batch).await as u64;
        assert!(received > 0 && received < 50, "the buffer holds a few of them: {received}");
        assert_eq!((drops(), drops()), (Some(100 - received), Some(0)));
        drop(socket);
        assert_eq!(drops(), None);
    });
}

#[cfg(target_os = "linux")]
#[test]
fn what_cannot_be_sent_is_an_error_and_the_rest_is_sent() {
    runtime(async {
        let socket = Socket::new(bind("127.0.0.1:0".parse().unwrap()).unwrap()).unwrap();
        let client = client("127.0.0.1:0");
        let way = Way::to(client.local_addr().unwrap());
        // More than the length fields of IP and UDP can say.
        let (too_long, good) = (vec![0; 65_508], [1; 65_507]);
        assert!(socket.send([(way, &too_long[..]), (way, &good[..])].into_iter()).await.is_err());
        assert_eq!(socket.send([(way, &good[..]), (way, &too_long[..])].into_iter()).await.unwrap(), 1);
        assert_eq!(client.recv(&mut vec![0; MAX_DATAGRAM]).unwrap(), 65_507);
    });
}

#[test]
fn one_by_one_is_the_same() {
    runtime(async {
        let socket = Socket::new(bind("127.0.0.1:0".parse().unwrap()).unwrap()).unwrap();
        let client = client("127.0.0.1:0");
        for number in 0..3_u8 {
            client.send_to(&[number], socket.local_addr().unwrap()).unwrap();
        }
        socket.readable().await.unwrap();
        let socket = socket.inner.get_ref();
        let mut batch = portable::Batch::default();
        assert_eq!(portable::receive(socket, &mut batch).unwrap(), 3);
        let heard: Vec<(Way, &[u8])> = batch.iter().collect();
        assert_eq!(heard[2], (Way::to(client.local_addr().unwrap()), &[2][..]));
        assert_eq!(portable::send(socket, Domain::IPV4, heard.iter().copied()).unwrap(), 3);
        assert_eq!(client.recv(&mut [0; 8]).unwrap(), 1);
        assert_eq!((portable::take_unreachable(socket), portable::receive_drops(socket)), (None, 0));
        assert!(
            portable::prepare(&RawSocket::from(client), SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).is_ok()
        );
    });
}

#[test]
fn waiting_for_room_ends_where_there_is_some() {
    runtime(async {
        let socket = Socket::new(bind("127.0.0.1:0".parse().unwrap()).unwrap()).unwrap();
        // Loopback always has room: what is shown is that a second descriptor is polled for it, and again.
        for _ in 0..2 {
            socket.room().await.unwrap();
        }
        assert_eq!(
            socket.send([(Way::to(socket.local_addr().unwrap()), &b"x"[..])].into_iter()).await.unwrap(),
            1
        );
        assert_eq!(receive(&socket, &mut Batch::default()).await, 1);
    });
}
