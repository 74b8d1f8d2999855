//! One line of an allow or deny list: a filter, or a filter and a queue group.
//!
//! Owns its grammar and which queue groups it speaks of. It must not decide anything by itself.

use std::fmt;

use crate::subject::{Filter, SubjectError, SubjectFilter};

/// A filter such as `jobs.>`, or a filter and a pattern of queue groups such as `jobs.> workers.*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    filter: SubjectFilter,
    queue: Option<SubjectFilter>,
}

/// Why a text is no rule. Whoever wrote the rules is at fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// The filter is none.
    #[error(transparent)]
    Filter(#[from] SubjectError),
    /// What follows the space is no name or pattern of queue groups.
    #[error("the queue group behind the space is none: {0}")]
    Queue(SubjectError),
}

impl Rule {
    /// Reads `filter` or `filter queue`. In the pattern of queue groups `*` stands for one token and a last `>`
    /// for the rest, as in a filter.
    ///
    /// # Errors
    /// Says which half is wrong, and why.
    pub fn new(text: &str) -> Result<Self, RuleError> {
        let (filter, queue) = match text.split_once(' ') {
            Some((filter, queue)) => (filter, Some(queue)),
            None => (text, None),
        };
        let queue = queue.map(|queue| SubjectFilter::new(queue.trim_start()).map_err(RuleError::Queue));
        Ok(Self { filter: SubjectFilter::new(filter)?, queue: queue.transpose()? })
    }

    /// The subjects that it speaks of.
    #[must_use]
    pub fn filter(&self) -> Filter<'_> {
        self.filter.as_filter()
    }

    /// Whether it speaks of certain queue groups only.
    pub(super) fn has_queue(&self) -> bool {
        self.queue.is_some()
    }

    /// Whether it names this queue group.
    pub(super) fn names(&self, queue: &str) -> bool {
        let matches =
            |pattern: &SubjectFilter| pattern.as_str() == queue || pattern.as_filter().matches_text(queue);
        self.queue.as_ref().is_some_and(matches)
    }

    /// Whether, in a deny list, it speaks of a subscription in `queue`. One without a group denies to all.
    pub(super) fn denies(&self, queue: Option<&str>) -> bool {
        self.queue.is_none() || queue.is_some_and(|queue| self.names(queue))
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.filter.as_str())?;
        self.queue.as_ref().map_or(Ok(()), |queue| write!(f, " {queue}"))
    }
}
