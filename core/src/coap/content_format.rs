//! CoAP Content-Format numbers and the media types that they stand for (RFC 7252, section 12.3, and the
//! registry that it founded).
//!
//! Owns the mapping in both directions. It must not look at payloads: what a message does not say about
//! itself is not guessed.

use crate::headers::Headers;

/// The envelope and JSON at large.
pub const JSON: u16 = 50;
/// RFC 6690 link format.
pub const LINK_FORMAT: u16 = 40;
/// Bytes.
pub const OCTET_STREAM: u16 = 42;
/// UTF-8 text.
pub const TEXT: u16 = 0;

struct Format {
    number: u16,
    media_type: &'static str,
    /// The header block with nothing but this Content-Type, ready to be borrowed by a message.
    block: &'static str,
}

macro_rules! formats {
    ($($number:literal => $media_type:literal,)*) => {
        &[$(Format {
            number: $number,
            media_type: $media_type,
            block: concat!("NATS/1.0\r\nContent-Type: ", $media_type, "\r\n\r\n"),
        }),*]
    };
}

/// In ascending order of their numbers. Where two numbers share a media type, which happens with content
/// codings only, the one without coding is here: a coding would need a second header.
const FORMATS: &[Format] = formats! {
    0 => "text/plain;charset=utf-8",
    16 => "application/cose;cose-type=\"cose-encrypt0\"",
    17 => "application/cose;cose-type=\"cose-mac0\"",
    18 => "application/cose;cose-type=\"cose-sign1\"",
    19 => "application/ace+cbor",
    21 => "image/gif",
    22 => "image/jpeg",
    23 => "image/png",
    40 => "application/link-format",
    41 => "application/xml",
    42 => "application/octet-stream",
    47 => "application/exi",
    50 => "application/json",
    51 => "application/json-patch+json",
    52 => "application/merge-patch+json",
    60 => "application/cbor",
    61 => "application/cwt",
    62 => "application/multipart-core",
    63 => "application/cbor-seq",
    96 => "application/cose;cose-type=\"cose-encrypt\"",
    97 => "application/cose;cose-type=\"cose-mac\"",
    98 => "application/cose;cose-type=\"cose-sign\"",
    101 => "application/cose-key",
    102 => "application/cose-key-set",
    110 => "application/senml+json",
    111 => "application/sensml+json",
    112 => "application/senml+cbor",
    113 => "application/sensml+cbor",
    114 => "application/senml-exi",
    115 => "application/sensml-exi",
    140 => "application/yang-data+cbor;id=sid",
    256 => "application/coap-group+json",
    257 => "application/concise-problem-details+cbor",
    271 => "application/dots+cbor",
    310 => "application/senml+xml",
    311 => "application/sensml+xml",
    320 => "application/senml-etch+json",
    322 => "application/senml-etch+cbor",
    340 => "application/yang-data+cbor",
    432 => "application/td+json",
    433 => "application/tm+json",
    10000 => "application/vnd.ocf+cbor",
    10001 => "application/oscore",
    11542 => "application/vnd.oma.lwm2m+tlv",
    11543 => "application/vnd.oma.lwm2m+json",
    11544 => "application/vnd.oma.lwm2m+cbor",
    20000 => "text/css",
    30000 => "image/svg+xml",
};

/// The headers of a message that came with this Content-Format; none for a number that is not known.
#[must_use]
pub fn headers(format: Option<u16>) -> Headers<'static> {
    let found = format.and_then(|n| FORMATS.binary_search_by_key(&n, |f| f.number).ok());
    found.map_or(Headers::EMPTY, |index| Headers::from_block(FORMATS[index].block.as_bytes()))
}

/// The Content-Format of a message's `Content-Type`, when it has one that CoAP knows.
#[must_use]
pub fn of(headers: Headers<'_>) -> Option<u16> {
    if headers.is_empty() {
        return None;
    }
    from_media_type(headers.get("Content-Type")?)
}

/// The number of a media type. Types, parameter names and charsets compare without regard to case
/// (RFC 9110, section 8.3.1). A `charset=utf-8` is read away where it is the default or the only choice;
/// any other parameter has to be the registered one.
#[must_use]
pub fn from_media_type(media_type: &str) -> Option<u16> {
    FORMATS.iter().find(|format| same_media_type(format.media_type, media_type)).map(|format| format.number)
}

fn same_media_type(registered: &str, given: &str) -> bool {
    let mut mine = parameters(registered);
    let mut theirs = parameters(given);
    loop {
        match (mine.next(), theirs.next()) {
            (None, None) => return true,
            (Some(m), Some(t)) if m.eq_ignore_ascii_case(t) => {}
            _ => return false,
        }
    }
}

/// The type and its parameters. Quotes around a parameter's value mean nothing, and neither does
/// `charset=utf-8`.
fn parameters(media_type: &str) -> impl Iterator<Item = &str> {
    let parts = media_type.split(';').map(str::trim);
    parts.filter(|part| {
        !part.is_empty()
            && !part.split_once('=').is_some_and(|(name, value)| {
                name.eq_ignore_ascii_case("charset") && value.trim_matches('"').eq_ignore_ascii_case("utf-8")
            })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_maps_both_ways() {
        assert!(FORMATS.is_sorted_by_key(|f| f.number));
        for format in FORMATS {
            assert_eq!(of(headers(Some(format.number))), Some(format.number), "{}", format.media_type);
        }
        assert!(headers(Some(65_000)).is_empty() && headers(None).is_empty());
    }

    #[test]
    fn media_types_compare_as_http_compares_them() {
        assert_eq!(from_media_type("text/plain"), Some(TEXT));
        assert_eq!(from_media_type("Text/Plain; Charset=\"UTF-8\""), Some(TEXT));
        assert_eq!(from_media_type("text/plain;charset=latin1"), None);
        assert_eq!(from_media_type("application/json; charset=utf-8"), Some(JSON));
        assert_eq!(from_media_type("application/vnd.oma.lwm2m+tlv"), Some(11_542));
        assert_eq!(from_media_type("video/mp4"), None);
    }
}
