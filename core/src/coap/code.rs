//! CoAP codes (RFC 7252, section 12.1): methods and response codes.
//!
//! Owns the code's two halves and the constants that the session speaks. It must not decide which code
//! answers what; that is the session's.

use std::fmt;

/// A code: a class (3 bits) and a detail (5 bits), written `c.dd`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Code(u8);

impl Code {
    /// 0.00, an Empty message.
    pub const EMPTY: Code = Code::new(0, 0);
    /// 0.01
    pub const GET: Code = Code::new(0, 1);
    /// 0.02
    pub const POST: Code = Code::new(0, 2);
    /// 0.03
    pub const PUT: Code = Code::new(0, 3);
    /// 2.03
    pub const VALID: Code = Code::new(2, 3);
    /// 2.04
    pub const CHANGED: Code = Code::new(2, 4);
    /// 2.05
    pub const CONTENT: Code = Code::new(2, 5);
    /// 2.31 (RFC 7959, section 2.9.1)
    pub const CONTINUE: Code = Code::new(2, 31);
    /// 4.00
    pub const BAD_REQUEST: Code = Code::new(4, 0);
    /// 4.01
    pub const UNAUTHORIZED: Code = Code::new(4, 1);
    /// 4.02
    pub const BAD_OPTION: Code = Code::new(4, 2);
    /// 4.03
    pub const FORBIDDEN: Code = Code::new(4, 3);
    /// 4.04
    pub const NOT_FOUND: Code = Code::new(4, 4);
    /// 4.05
    pub const METHOD_NOT_ALLOWED: Code = Code::new(4, 5);
    /// 4.06
    pub const NOT_ACCEPTABLE: Code = Code::new(4, 6);
    /// 4.08 (RFC 7959, section 2.9.2)
    pub const REQUEST_ENTITY_INCOMPLETE: Code = Code::new(4, 8);
    /// 4.12
    pub const PRECONDITION_FAILED: Code = Code::new(4, 12);
    /// 4.13 (RFC 7252, section 5.9.2.9, and RFC 7959, section 2.9.3)
    pub const REQUEST_ENTITY_TOO_LARGE: Code = Code::new(4, 13);
    /// 4.29 (RFC 8516)
    pub const TOO_MANY_REQUESTS: Code = Code::new(4, 29);
    /// 5.00
    pub const INTERNAL_SERVER_ERROR: Code = Code::new(5, 0);
    /// 5.03
    pub const SERVICE_UNAVAILABLE: Code = Code::new(5, 3);
    /// 5.04
    pub const GATEWAY_TIMEOUT: Code = Code::new(5, 4);
    /// 5.05
    pub const PROXYING_NOT_SUPPORTED: Code = Code::new(5, 5);

    /// A code from its halves: `class` below 8, `detail` below 32.
    #[must_use]
    pub const fn new(class: u8, detail: u8) -> Self {
        assert!(class < 8 && detail < 32);
        Self(class << 5 | detail)
    }

    /// The code of a message's second byte.
    #[must_use]
    pub const fn from_byte(byte: u8) -> Self {
        Self(byte)
    }

    /// The byte on the wire.
    #[must_use]
    pub const fn as_byte(self) -> u8 {
        self.0
    }

    /// The class: 0 for requests, 2, 4 and 5 for responses, 1, 6 and 7 reserved.
    #[must_use]
    pub const fn class(self) -> u8 {
        self.0 >> 5
    }

    /// The detail below the class.
    #[must_use]
    pub const fn detail(self) -> u8 {
        self.0 & 0x1f
    }

    /// Whether this is a method. The Empty code is not.
    #[must_use]
    pub const fn is_request(self) -> bool {
        self.class() == 0 && self.0 != 0
    }

    /// Whether this is a response code.
    #[must_use]
    pub const fn is_response(self) -> bool {
        matches!(self.class(), 2 | 4 | 5)
    }

    /// The response code for a service's error number, which counts as HTTP does (design, section 6):
    /// 404 is 4.04. Where CoAP has no such code the class alone is kept, and a number outside 400 to 599
    /// is the service's own fault: 5.00.
    #[must_use]
    pub fn from_service_error(number: u16) -> Self {
        // The registered codes ("CoAP Response Codes" at IANA) of the two classes.
        const CLIENT: &[u8] = &[0, 1, 2, 3, 4, 5, 6, 8, 9, 12, 13, 15, 22, 29];
        const SERVER: &[u8] = &[0, 1, 2, 3, 4, 5, 8];
        let (class, known) = match number {
            400..=499 => (4, CLIENT),
            500..=599 => (5, SERVER),
            _ => return Self::INTERNAL_SERVER_ERROR,
        };
        let detail = u8::try_from(number % 100).ok().filter(|d| known.contains(d)).unwrap_or(0);
        Self::new(class, detail)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:02}", self.class(), self.detail())
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Code({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_read_as_the_rfc_writes_them() {
        assert_eq!(Code::NOT_FOUND.to_string(), "4.04");
        assert_eq!(Code::CONTINUE.as_byte(), 0x5f);
        assert_eq!(Code::from_byte(0x45), Code::CONTENT);
        assert!(Code::GET.is_request() && !Code::EMPTY.is_request() && !Code::CONTENT.is_request());
        assert!(!Code::from_byte(0x20).is_response() && !Code::from_byte(0xe0).is_response());
    }

    #[test]
    fn service_errors_keep_what_coap_can_say() {
        for (number, code) in
            [(404, "4.04"), (429, "4.29"), (418, "4.00"), (503, "5.03"), (511, "5.00"), (499, "4.00")]
        {
            assert_eq!(Code::from_service_error(number).to_string(), code, "{number}");
        }
        for number in [0, 200, 399, 600, 65_535] {
            assert_eq!(Code::from_service_error(number), Code::INTERNAL_SERVER_ERROR, "{number}");
        }
    }
}
