//! `Authorization: Basic` (RFC 7617) and `Authorization: Bearer` (RFC 6750, section 2.1).

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// What a client says in `Authorization`.
#[derive(Clone, PartialEq, Eq)]
pub enum Authorization {
    /// A user and a password, in UTF-8.
    Basic {
        /// The user's name, which has no colon.
        user: String,
        /// The password.
        password: String,
    },
    /// A token.
    Bearer(String),
}

/// The header is none of these. The client is at fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuthorizationError {
    /// Neither Basic nor Bearer.
    #[error("the Authorization header has neither the scheme Basic nor Bearer")]
    Scheme,
    /// Not base64 of UTF-8 with a colon in it.
    #[error("the credentials of the scheme Basic are base64 of `user:password` in UTF-8")]
    Basic,
    /// Not one word of visible ASCII.
    #[error("the credentials of the scheme Bearer are one token")]
    Bearer,
}

impl Authorization {
    /// Reads the header's value.
    ///
    /// # Errors
    /// Says what about it is wrong; never what stands in it.
    pub fn parse(value: &[u8]) -> Result<Self, AuthorizationError> {
        let text = std::str::from_utf8(value).map_err(|_| AuthorizationError::Scheme)?.trim();
        let (scheme, credentials) = text.split_once(' ').ok_or(AuthorizationError::Scheme)?;
        let credentials = credentials.trim_start();
        if scheme.eq_ignore_ascii_case("basic") {
            let decoded = STANDARD.decode(credentials).map_err(|_| AuthorizationError::Basic)?;
            let decoded = String::from_utf8(decoded).map_err(|_| AuthorizationError::Basic)?;
            // RFC 7617, section 2: only the first colon separates, and control characters have no place.
            let (user, password) = decoded.split_once(':').ok_or(AuthorizationError::Basic)?;
            if decoded.chars().any(char::is_control) {
                return Err(AuthorizationError::Basic);
            }
            return Ok(Self::Basic { user: user.to_owned(), password: password.to_owned() });
        }
        if scheme.eq_ignore_ascii_case("bearer") {
            let is_token = !credentials.is_empty() && credentials.bytes().all(|b| b.is_ascii_graphic());
            return if is_token {
                Ok(Self::Bearer(credentials.to_owned()))
            } else {
                Err(AuthorizationError::Bearer)
            };
        }
        Err(AuthorizationError::Scheme)
    }
}

/// Without the secret.
impl fmt::Debug for Authorization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Basic { .. } => "Basic ***",
            Self::Bearer(_) => "Bearer ***",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn both_schemes_are_read() {
        // RFC 7617, section 2 and 2.1.
        let basic = |user: &str, password: &str| {
            Ok(Authorization::Basic { user: user.to_owned(), password: password.to_owned() })
        };
        assert_eq!(
            Authorization::parse(b"Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="),
            basic("Aladdin", "open sesame")
        );
        assert_eq!(Authorization::parse(b"basic dGVzdDoxMjPCow=="), basic("test", "123\u{a3}"));
        assert_eq!(Authorization::parse(b"Basic YTpiOmM="), basic("a", "b:c"));
        assert_eq!(
            Authorization::parse(b"BEARER  mF_9.B5f-4.1JqM"),
            Ok(Authorization::Bearer("mF_9.B5f-4.1JqM".into()))
        );
    }

    #[test]
    fn what_is_neither_is_refused_without_saying_it_again() {
        for (value, error) in [
            (&b"Digest x"[..], AuthorizationError::Scheme),
            (b"Basic", AuthorizationError::Scheme),
            (b"", AuthorizationError::Scheme),
            (b"\xff", AuthorizationError::Scheme),
            (b"Basic !!!", AuthorizationError::Basic),
            (b"Basic bm9jb2xvbg==", AuthorizationError::Basic),
            (b"Basic /zo=", AuthorizationError::Basic),
            (b"Basic YToKYg==", AuthorizationError::Basic),
            (b"Bearer a b", AuthorizationError::Bearer),
        ] {
            assert_eq!(Authorization::parse(value), Err(error), "{}", value.escape_ascii());
        }
        let shown = format!("{:?}", Authorization::parse(b"Basic YTpzM2NyM3Q="));
        assert!(!shown.contains("s3cr3t"), "{shown}");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(user in "[^:\\p{C}]{0,20}", password in "[^\\p{C}]{0,20}") {
            let value = format!("Basic {}", STANDARD.encode(format!("{user}:{password}")));
            prop_assert_eq!(Authorization::parse(value.as_bytes()), Ok(Authorization::Basic { user, password }));
        }
    }
}
