//! What the tests of traces share: reading steps until something was told.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::time::Duration;

use serde_json::Value;
use waymeet::{Item, Listener, Mailbox, MailboxLimits, Node};
use waymeet_core::{Filter, SubjectFilter};

/// A bound for what must happen; never a wait for what may.
pub const SOON: Duration = Duration::from_secs(30);

/// A reader of traces in the program that embeds the node.
pub struct Trail(Mailbox);

impl Trail {
    pub fn of(node: &Node, filter: &str) -> Self {
        let limits = MailboxLimits { messages: 10_000, bytes: 16 << 20 };
        let filters = vec![SubjectFilter::from(Filter::new(filter).expect("a filter"))];
        Self(node.handle().trace(Listener::Embedded, filters, limits).expect("a reader"))
    }

    /// The next step.
    pub async fn next(&mut self) -> Value {
        match tokio::time::timeout(SOON, self.0.recv()).await.expect("a step in time") {
            Some(Item::Message { delivery, .. }) => {
                serde_json::from_slice(delivery.payload()).expect("a step is JSON")
            }
            other => panic!("no step: {other:?}"),
        }
    }

    /// The steps up to the first that `is_it`, that one included.
    pub async fn until(&mut self, is_it: impl Fn(&Value) -> bool) -> Vec<Value> {
        let mut steps = Vec::new();
        loop {
            let step = self.next().await;
            let found = is_it(&step);
            steps.push(step);
            if found {
                return steps;
            }
        }
    }

    /// Whether a step waits.
    pub fn is_silent(&mut self) -> bool {
        self.0.try_recv().is_none()
    }

    /// The next thing, step or gap, if there is any.
    pub fn try_next(&mut self) -> Option<Item> {
        self.0.try_recv()
    }
}

/// The names of steps, in order.
pub fn names(steps: &[Value]) -> Vec<&str> {
    steps.iter().map(|step| step["step"].as_str().expect("a step has a name")).collect()
}

/// The first step of that name.
pub fn named<'a>(steps: &'a [Value], name: &str) -> &'a Value {
    steps.iter().find(|step| step["step"] == name).unwrap_or_else(|| panic!("no {name} in {steps:#?}"))
}
