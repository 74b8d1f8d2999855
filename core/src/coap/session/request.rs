//! What a request says, read once from its options.
//!
//! Owns which options are understood, how often each may occur, and the way from Uri-Path and Uri-Query to
//! subjects. It must not act on any of it.

use std::time::Duration;

use crate::coap::option::{self, Block, Options, number};
use crate::coap::{Code, Datagram, content_format};
use crate::headers::{HeaderMap, Headers};
use crate::resource::{self, Resource, ResourceError};
use crate::subject::{Subject, SubjectError, SubjectFilter};
use crate::trace::{TRACEPARENT, TraceParent};

/// A request whose options are all understood.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request<'a> {
    pub(super) code: Code,
    pub(super) options: Options<'a>,
    pub(super) payload: &'a [u8],
    pub(super) content_format: Option<u16>,
    pub(super) accept: Option<u16>,
    pub(super) observe: Option<u32>,
    pub(super) block1: Option<Block>,
    pub(super) block2: Option<Block>,
    pub(super) size1: Option<u32>,
    /// Whether it is only for something that is there, or only for something that is not.
    pub(super) if_match: bool,
    pub(super) if_none_match: bool,
    pub(super) echo: Option<&'a [u8]>,
    /// Of the option or, for clients that know none but the registered ones, of `?traceparent=`.
    pub(super) traceparent: Option<TraceParent>,
}

/// Why a request cannot be acted on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unreadable {
    /// A critical option that is not known, comes too often or has a value of the wrong length
    /// (RFC 7252, sections 5.4.1, 5.4.3 and 5.4.5): 4.02.
    BadOption(u16),
    /// The client takes this server for a forward proxy (section 5.7.2): 5.05.
    Proxy,
    /// A block with the reserved size exponent (RFC 7959, section 2.2): 4.00.
    BlockSize,
}

impl<'a> Request<'a> {
    pub(super) fn read(message: &Datagram<'a>) -> Result<Self, Unreadable> {
        let mut request = Self {
            code: message.code,
            options: message.options,
            payload: message.payload,
            content_format: None,
            accept: None,
            observe: None,
            block1: None,
            block2: None,
            size1: None,
            if_match: false,
            if_none_match: false,
            echo: None,
            traceparent: None,
        };
        let mut previous = None;
        for option in message.options.iter() {
            let repeated = previous.replace(option.number) == Some(option.number);
            let repeatable = matches!(
                option.number,
                number::IF_MATCH | number::URI_PATH | number::URI_QUERY | number::ETAG | number::REQUEST_TAG
            );
            if (repeated && !repeatable) || !option.has_valid_length() {
                if option::is_critical(option.number) {
                    return Err(Unreadable::BadOption(option.number));
                }
                continue;
            }
            let uint = option.as_uint();
            let short = uint.and_then(|value| u16::try_from(value).ok());
            match option.number {
                number::CONTENT_FORMAT => request.content_format = short,
                number::IF_MATCH => request.if_match = true,
                number::IF_NONE_MATCH => request.if_none_match = true,
                number::ACCEPT => request.accept = short,
                number::OBSERVE => request.observe = uint,
                number::BLOCK1 => request.block1 = Some(block(uint)?),
                number::BLOCK2 => request.block2 = Some(block(uint)?),
                number::SIZE1 => request.size1 = uint,
                number::ECHO => request.echo = Some(option.value),
                number::PROXY_URI | number::PROXY_SCHEME => return Err(Unreadable::Proxy),
                number::TRACEPARENT => request.traceparent = context(option.value),
                number::URI_QUERY => {
                    let value = option.value.strip_prefix(b"traceparent=");
                    request.traceparent = request.traceparent.or_else(|| context(value?));
                }
                number::URI_HOST | number::URI_PORT | number::URI_PATH => {}
                other if option::is_critical(other) => return Err(Unreadable::BadOption(other)),
                _ => {}
            }
        }
        Ok(request)
    }

    /// The first path segment, which names the resource.
    pub(super) fn verb(&self) -> &'a [u8] {
        self.options.values(number::URI_PATH).next().unwrap_or_default()
    }

    /// The subject that the path segments after the verb spell, written into `text`. The rule is
    /// [`Resource::from_segments`]', without its allocations.
    pub(super) fn subject<'t>(&self, text: &'t mut String) -> Result<Subject<'t>, SubjectError> {
        self.tail(text)?;
        Subject::new(text)
    }

    /// The headers of the message that the request stands for. `block` is where they are put together when there is more
    /// than a Content-Format.
    pub(super) fn headers<'b>(&self, block: &'b mut HeaderMap) -> Headers<'b> {
        let headers = content_format::headers(self.content_format);
        let Some(parent) = self.traceparent else { return headers };
        for (name, value) in headers.iter().chain([(TRACEPARENT, &*parent.to_string())]) {
            // A media type and hexadecimal digits are header values.
            let _ = block.push(name, value);
        }
        block.as_headers()
    }

    /// The whole path, segments joined by slashes; `None` when it is not UTF-8.
    pub(super) fn path(&self) -> Option<String> {
        let segments: Result<Vec<_>, _> =
            self.options.values(number::URI_PATH).map(std::str::from_utf8).collect();
        Some(segments.ok()?.join("/"))
    }

    /// The filters of a subscription: the path's and each `filter=`.
    pub(super) fn filters(&self) -> Result<Vec<SubjectFilter>, ResourceError> {
        let segments: Vec<_> = self
            .options
            .values(number::URI_PATH)
            .map(|segment| std::str::from_utf8(segment).map_err(|_| SubjectError::NotUtf8))
            .collect::<Result<_, _>>()?;
        let mut filters = Vec::new();
        if let Resource::Subscribe(Some(filter)) = Resource::from_segments(&segments)? {
            filters.push(filter);
        }
        for text in self.query("filter") {
            filters.push(resource::filter_from_text(text?)?);
        }
        if filters.is_empty() {
            return Err(SubjectError::Empty.into());
        }
        Ok(filters)
    }

    /// How long the request may take, when it says so.
    pub(super) fn timeout(&self) -> Result<Option<Duration>, ResourceError> {
        self.query("timeout").next().map(|text| resource::timeout_from_text(text?)).transpose()
    }

    /// The values of a query parameter: one Uri-Query option is one `name=value` (RFC 7252, section 6.5).
    pub(super) fn query(&self, name: &'a str) -> impl Iterator<Item = Result<&'a str, SubjectError>> {
        self.options.values(number::URI_QUERY).filter_map(move |query| {
            let value = query.strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
            Some(std::str::from_utf8(value).map_err(|_| SubjectError::NotUtf8))
        })
    }

    fn tail(&self, text: &mut String) -> Result<(), SubjectError> {
        text.clear();
        for (position, segment) in self.options.values(number::URI_PATH).skip(1).enumerate() {
            if position > 0 {
                text.push('.');
            }
            text.push_str(std::str::from_utf8(segment).map_err(|_| SubjectError::NotUtf8)?);
        }
        Ok(())
    }
}

fn context(value: &[u8]) -> Option<TraceParent> {
    TraceParent::parse(std::str::from_utf8(value).ok()?)
}

fn block(value: Option<u32>) -> Result<Block, Unreadable> {
    value.and_then(Block::from_uint).ok_or(Unreadable::BlockSize)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::coap::codec::{self, Encoder};
    use crate::coap::{Token, Type};

    fn with(options: &[(u16, &[u8])], check: impl FnOnce(Result<Request<'_>, Unreadable>)) {
        let mut out = Vec::new();
        let mut encoder = Encoder::new(&mut out, Type::Confirmable, Code::GET, 1, Token::EMPTY);
        for (number, value) in options {
            encoder.option(*number, value);
        }
        check(Request::read(&codec::parse(&out).unwrap()));
    }

    #[test]
    fn unknown_options_count_when_they_are_critical() {
        with(&[(9, b"")], |r| assert_eq!(r.unwrap_err(), Unreadable::BadOption(9)));
        with(&[(10, b"")], |r| assert!(r.is_ok()));
        with(&[(number::ACCEPT, b"\0\0\0")], |r| assert_eq!(r.unwrap_err(), Unreadable::BadOption(17)));
        with(&[(number::ACCEPT, b"2"), (number::ACCEPT, b"2")], |r| {
            assert_eq!(r.unwrap_err(), Unreadable::BadOption(17));
        });
        with(&[(number::CONTENT_FORMAT, b"2"), (number::CONTENT_FORMAT, b"\0\0\0")], |r| {
            assert_eq!(r.unwrap().content_format, Some(50), "the second one is passed over");
        });
        with(&[(number::BLOCK2, b"\x07")], |r| assert_eq!(r.unwrap_err(), Unreadable::BlockSize));
        with(&[(number::PROXY_SCHEME, b"coap")], |r| assert_eq!(r.unwrap_err(), Unreadable::Proxy));
    }

    #[test]
    fn queries_name_filters_and_timeouts() {
        let options: [(u16, &[u8]); 6] = [
            (number::URI_PATH, b"sub"),
            (number::URI_PATH, b"a"),
            (number::URI_PATH, b"*"),
            (number::URI_QUERY, b"filter=b.**"),
            (number::URI_QUERY, b"timeout=250ms"),
            (number::URI_QUERY, b"filters=x"),
        ];
        with(&options, |r| {
            let request = r.unwrap();
            let filters: Vec<_> = request.filters().unwrap().iter().map(ToString::to_string).collect();
            assert_eq!(filters, ["a.*", "b.>"]);
            assert_eq!(request.timeout(), Ok(Some(Duration::from_millis(250))));
            assert_eq!(request.path().unwrap(), "sub/a/*");
        });
    }

    #[test]
    fn a_trace_context_is_an_option_or_a_query() {
        let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let query = format!("traceparent={text}");
        let other = text.replace('4', "5");
        let has = |options: &[(u16, &[u8])], expected: &[(&str, &str)]| {
            with(options, |r| {
                let mut block = HeaderMap::new();
                let headers = r.unwrap().headers(&mut block);
                assert_eq!(headers.iter().collect::<Vec<_>>(), expected);
            });
        };
        has(&[(number::URI_QUERY, query.as_bytes())], &[("traceparent", text)]);
        let format = (number::CONTENT_FORMAT, &b"2"[..]);
        let both = [format, (number::URI_QUERY, query.as_bytes()), (number::TRACEPARENT, other.as_bytes())];
        has(&both, &[("Content-Type", "application/json"), ("traceparent", &other)]);
        has(&[format, (number::TRACEPARENT, b"what?")], &[("Content-Type", "application/json")]);
        has(&[], &[]);
    }

    proptest! {
        #[test]
        fn subjects_are_those_of_the_resource_space(tail in proptest::collection::vec("[a*.> \u{e4}]{0,3}", 0..4)) {
            let mut segments = vec!["pub".to_owned()];
            segments.extend(tail);
            let options: Vec<_> =
                segments.iter().map(|s| (number::URI_PATH, s.as_bytes())).collect();
            let expected = match Resource::from_segments(&segments) {
                Ok(Resource::Publish(subject)) => Ok(subject.as_subject().to_string()),
                Ok(other) => panic!("{other:?}"),
                Err(error) => Err(error),
            };
            with(&options, |r| {
                let mut text = String::new();
                let subject = r.unwrap().subject(&mut text).map(|s| s.to_string());
                assert_eq!(subject.map_err(ResourceError::from), expected);
            });
        }
    }
}
