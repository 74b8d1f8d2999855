//! The front of a DTLS server.
//!
//! Owns what must hold of it for any datagram: nobody is proved without having been given his cookie, and no answer is
//! longer than its question.

use std::time::Instant;

use waymeet_core::dtls::{COOKIE_BYTES, Cookies, Hello, Verdict};

/// Meets the datagram as a stranger's, and again with its cookie in place.
///
/// # Panics
/// When something does not hold.
pub fn dtls_front(data: &[u8]) {
    let cookies = Cookies::new(&[7; 32], Instant::now());
    let Ok(hello) = Hello::parse(data) else { return };
    assert!(data.starts_with(hello.record()));
    assert_eq!(cookies.judge(1, &hello), Verdict::Verify, "a cookie was guessed");
    let mut request = Vec::new();
    cookies.verify_request(1, &hello, &mut request);
    assert!(request.len() <= data.len(), "the answer is longer than the question");
    let first = hello.without_cookie();
    // Without its cookie a hello may be shorter than what it asks for; else it is the same hello.
    if let Ok(first) = Hello::parse(&first) {
        assert_eq!(first.random(), hello.random());
        assert_eq!(first.without_cookie(), first.record(), "nothing is left to take away");
        let mut again = Vec::new();
        cookies.verify_request(1, &first, &mut again);
        let cookie = |request: &[u8]| request[request.len() - COOKIE_BYTES..].to_vec();
        assert_eq!(cookie(&again), cookie(&request), "the cookie does not depend on the cookie");
    }
}
