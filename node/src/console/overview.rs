//! The overview: what a page shows at a glance, made once for all pages that look.
//!
//! Owns when the node looks at itself, the shape of `GET /overview` and what of it a user may see. It must not serve;
//! the HTTP listener does. While nobody looks the counters are read once in a [`history::STEP`], and nothing else
//! happens.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures_util::{Stream, stream};
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::{Notify, watch};
use waymeet_core::Filter;
use waymeet_core::permissions::Access;

use super::history::{self, History};
use super::links::{Link, LinkRates};
use super::subjects::Subjects;
use super::traffic::Traffic;
use crate::auth::Who;
use crate::handle::NodeHandle;
use crate::metrics::Reading;

/// How often pages are told.
const STEP: Duration = Duration::from_millis(500);
/// Rates are means over so many steps.
const WINDOW: usize = 4;

/// What the node keeps for its console.
#[derive(Debug)]
pub(crate) struct Console {
    latest: watch::Sender<Option<Arc<Overview>>>,
    /// Somebody has begun to look.
    begins: Notify,
    history: Mutex<History>,
    pub(crate) subjects: Subjects,
}

impl Default for Console {
    fn default() -> Self {
        Self {
            latest: watch::Sender::new(None),
            begins: Notify::new(),
            history: Mutex::default(),
            subjects: Subjects::default(),
        }
    }
}

/// Each part of an overview as JSON, because not everybody may see every part.
#[derive(Debug)]
struct Overview {
    head: String,
    traffic: String,
    links: String,
    /// How many points the history has had, and the latest.
    points: u64,
    point: Arc<str>,
}

#[derive(Debug, Serialize)]
struct Head {
    at_ms: u64,
    uptime_ms: u64,
}

#[derive(Debug, Serialize)]
struct PointEvent<'a> {
    at_ms: u64,
    values: &'a history::Point,
}

/// What of an overview a user may see, by what it may subscribe to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Sight {
    /// `$SYS.METRICS`: rates, latencies, drops.
    pub(crate) traffic: bool,
    /// `$SYS.PEERS`: links and nodes.
    pub(crate) peers: bool,
    /// `$SYS.SESSION.>`: the sessions of others.
    pub(crate) sessions: bool,
}

impl Sight {
    /// `None` when the user is none any more.
    pub(crate) fn of(who: &Who) -> Option<Self> {
        let Some(user) = who else { return Some(Self { traffic: true, peers: true, sessions: true }) };
        if user.is_gone() {
            return None;
        }
        let policy = user.policy();
        let sees = |filter: &str| {
            let filter = Filter::new(filter).expect("the node's own subjects are filters");
            policy.permissions.subscribe_access(filter, None) != Access::None
        };
        Some(Self {
            traffic: sees("$SYS.METRICS"),
            peers: sees("$SYS.PEERS"),
            sessions: sees("$SYS.SESSION.>"),
        })
    }
}

impl Overview {
    fn event(&self, sight: Sight) -> String {
        let mut text = String::with_capacity(self.traffic.len() + self.links.len() + 128);
        text.push_str("event: overview\ndata: {\"now\":");
        text.push_str(&self.head);
        for (name, part, is_seen) in
            [("traffic", &self.traffic, sight.traffic), ("links", &self.links, sight.peers)]
        {
            if is_seen {
                text.extend([",\"", name, "\":", part]);
            }
        }
        text.push_str("}\n\n");
        text
    }
}

/// Events for one page, from the latest overview on, until the node drains or its user may see nothing more.
pub(crate) fn events(node: NodeHandle) -> impl Stream<Item = String> + Send + 'static {
    let console = node.shared.console.clone();
    let updates = console.latest.subscribe();
    console.begins.notify_one();
    let page = Page { node, console, updates, points: None };
    stream::unfold(page, |mut page| async move {
        let text = page.next().await?;
        Some((text, page))
    })
}

/// Who looks, and how much it has been told.
struct Page {
    node: NodeHandle,
    console: Arc<Console>,
    updates: watch::Receiver<Option<Arc<Overview>>>,
    points: Option<u64>,
}

impl Page {
    async fn next(&mut self) -> Option<String> {
        loop {
            tokio::select! {
                changed = self.updates.changed() => changed.ok()?,
                () = self.node.draining() => return None,
            }
            let overview = self.updates.borrow_and_update().clone();
            let sight = Sight::of(&self.node.user)?;
            let Some(overview) = overview else { continue };
            let mut text = String::new();
            match self.points {
                _ if !sight.traffic => {}
                Some(points) if points == overview.points => {}
                Some(points) if points + 1 == overview.points => {
                    text = format!("event: point\ndata: {}\n\n", overview.point);
                }
                _ => text = format!("event: history\ndata: {}\n\n", self.console.history.lock().to_json()),
            }
            self.points = Some(overview.points);
            text.push_str(&overview.event(sight));
            return Some(text);
        }
    }
}

/// Looks at the node until it drains.
pub(crate) async fn serve(node: NodeHandle) {
    let console = node.shared.console.clone();
    let mut observer = Observer::new(&node);
    let draining = node.draining();
    let mut draining = std::pin::pin!(draining);
    loop {
        let is_watched = console.latest.receiver_count() > 0;
        if !is_watched && observer.rest() {
            console.latest.send_replace(None);
        }
        let pause = observer.until_next(is_watched, Instant::now());
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = console.begins.notified() => {}
            () = &mut draining => return,
        }
        let now = Instant::now();
        console.subjects.expire(&node.shared.exchange, now);
        if now >= observer.last_point + history::STEP {
            observer.add_point(&console, now);
        }
        if console.latest.receiver_count() > 0 && observer.is_due(now) {
            let overview = observer.look(now);
            console.latest.send_replace(Some(Arc::new(overview)));
        }
    }
}

/// Keeps the readings that rates are made of.
struct Observer<'a> {
    node: &'a NodeHandle,
    /// The latest readings, the oldest first; one alone while nobody looks.
    readings: VecDeque<(Instant, Reading)>,
    links: LinkRates,
    last_point: Instant,
    at_last_point: Reading,
    points: u64,
    point: Arc<str>,
}

impl<'a> Observer<'a> {
    fn new(node: &'a NodeHandle) -> Self {
        let reading = node.metrics().reading();
        Self {
            node,
            readings: VecDeque::new(),
            links: LinkRates::default(),
            last_point: Instant::now(),
            at_last_point: reading,
            points: 0,
            point: "{}".into(),
        }
    }

    /// How long nothing is to be done, however many pages begin to look meanwhile.
    fn until_next(&self, is_watched: bool, now: Instant) -> Duration {
        let point = (self.last_point + history::STEP).saturating_duration_since(now);
        let look = self
            .readings
            .back()
            .map_or(Duration::ZERO, |(last, _)| (*last + STEP).saturating_duration_since(now));
        if is_watched { point.min(look) } else { point }
    }

    fn is_due(&self, now: Instant) -> bool {
        self.readings.back().is_none_or(|(last, _)| now >= *last + STEP)
    }

    fn add_point(&mut self, console: &Console, now: Instant) {
        let reading = self.node.metrics().reading();
        let elapsed = now.saturating_duration_since(self.last_point);
        let traffic = Traffic::between(&self.at_last_point, &reading, elapsed);
        let (point, at_ms) = (traffic.point(), unix_ms());
        self.points += 1;
        self.point = to_json(&PointEvent { at_ms, values: &point }).into();
        console.history.lock().add(point, at_ms);
        (self.last_point, self.at_last_point) = (now, reading);
    }

    fn look(&mut self, now: Instant) -> Overview {
        let reading = self.node.metrics().reading();
        // Whoever has just begun to look is shown rates at once: those since the history's last point.
        if self.readings.is_empty() {
            self.readings.push_back((self.last_point, self.at_last_point.clone()));
        }
        self.readings.push_back((now, reading));
        if self.readings.len() > WINDOW + 1 {
            self.readings.pop_front();
        }
        let traffic = match (self.readings.front(), self.readings.back()) {
            (Some((began, earlier)), Some((_, reading))) => {
                Traffic::between(earlier, reading, now.saturating_duration_since(*began))
            }
            _ => Traffic::between(&self.at_last_point, &self.at_last_point, STEP),
        };
        let uptime = self.node.info().started.elapsed();
        let head = Head { at_ms: unix_ms(), uptime_ms: millis(uptime) };
        let links: Vec<Link> = self.links.look(&self.node.peers().peers, now);
        Overview {
            head: to_json(&head),
            traffic: to_json(&traffic),
            links: to_json(&links),
            points: self.points,
            point: self.point.clone(),
        }
    }

    /// Forgets what only pages need; whether there was anything.
    fn rest(&mut self) -> bool {
        self.links = LinkRates::default();
        !std::mem::take(&mut self.readings).is_empty()
    }
}

fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, millis)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn to_json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("texts and finite numbers are always JSON")
}
