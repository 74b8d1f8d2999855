//! `/subsz`: the node's subscriptions in nats-server's shape.
//!
//! Owns its parameters and members.

use std::time::Instant;

use serde_json::{Value, json};
use waymeet_core::Subject;

use super::connz::detail;
use super::{ACCOUNT, Page, QuestionError, is_on};
use crate::handle::NodeHandle;
use crate::sessions::rfc_3339;
use crate::subscription::Subscription;

/// What is asked of the subscriptions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct SubszQuery {
    page: Page,
    lists: bool,
    /// Only those that would receive a message on this subject.
    test: Option<String>,
}

impl SubszQuery {
    pub(super) fn set(&mut self, name: &str, value: &str) -> Result<(), QuestionError> {
        match name {
            "limit" | "offset" => self.page.set(name, value)?,
            "subs" => self.lists = is_on(value) || value.eq_ignore_ascii_case("detail"),
            "test" if value.is_empty() => self.test = None,
            "test" => {
                self.test = Some(Subject::new(value).map_err(|_| QuestionError::Test)?.to_string());
                self.lists = true;
            }
            _ => {}
        }
        Ok(())
    }

    pub(super) fn answer(&self, node: &NodeHandle) -> Value {
        let shared = &node.shared;
        let now = rfc_3339(shared.sessions.time_of(Instant::now()));
        let mut answer = json!({
            "server_id": node.info().id,
            "now": now,
            "num_subscriptions": node.metrics().subscriptions(),
            "total": 0,
            "offset": self.page.offset,
            "limit": self.page.limit,
        });
        if self.lists {
            let test = self.test.as_deref().and_then(|text| Subject::new(text).ok());
            let fits = |subscription: &Subscription| {
                test.is_none_or(|test| subscription.filter.as_filter().matches(test))
            };
            let mut fitting = shared.exchange.subscriptions_of(fits, usize::MAX);
            answer["total"] = fitting.len().into();
            // In the order in which sessions came, so that pages do not overlap.
            fitting.sort_by_cached_key(|subscription| {
                (subscription.outbox.session(), subscription.filter.to_string())
            });
            let page = fitting.iter().skip(self.page.offset).take(self.page.limit);
            let listed = page.map(|subscription| {
                let mut listed = detail(subscription, subscription.outbox.session());
                listed["account"] = ACCOUNT.into();
                listed
            });
            answer["subscriptions_list"] = listed.collect();
        }
        answer
    }
}
