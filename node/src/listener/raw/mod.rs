//! Raw listeners, for programs that speak no protocol: each line of a TCP connection, or each UDP datagram, is
//! a message (design, section 5).
//!
//! Owns what lines and datagrams share: the subject that a message gets, and the words for an answer that does
//! not come. It must not know a protocol beyond line ends.

mod answer;
pub(crate) mod datagrams;
pub(crate) mod lines;
mod subject;

pub(crate) use subject::SubjectTemplate;
