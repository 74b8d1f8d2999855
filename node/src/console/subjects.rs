//! The tree of subjects with their rates, for those who look at it.
//!
//! Owns what was counted since somebody began to look, the bounds of that, and the answers to `GET /subjects`. It must
//! not count: publishers do, while this says that somebody looks. When nobody has asked for a while everything is
//! forgotten, and publishers stop.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::Serialize;
use waymeet_core::permissions::{Access, Permissions};
use waymeet_core::{Filter, Subject};

use crate::exchange::Exchange;
use crate::publisher::Count;

/// How long publishers count on after the last question.
const LEASE: Duration = Duration::from_secs(30);
/// Counts are taken from publishers at most this often.
const STEP: Duration = Duration::from_millis(950);
/// Rates are means over so many steps.
const STEPS: usize = 3;
/// Subjects that are kept; the least recently published on give way.
const MAX_SUBJECTS: usize = 200_000;
/// Children that one level of an answer holds, and subjects that a search finds: the busiest.
const MAX_ROWS: usize = 100;
/// Levels in one answer.
pub(crate) const MAX_LEVELS: usize = 64;
/// Stands for the dot in keys. It sorts before every character of a token, so that what begins with the same tokens
/// stands together.
const DOT: char = '\u{1}';
/// Under what the replies to all requests are shown: each is on a subject that nobody sees again.
const REPLIES: &str = "_INBOX.*";

/// What is asked about subjects.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Question {
    /// Levels of the tree by what stands above them; the empty text for the first.
    pub(crate) under: Vec<String>,
    /// A filter, or a text that is part of the subject. Empty when nothing is searched for.
    pub(crate) search: String,
}

#[derive(Debug, Serialize)]
pub(crate) struct Answer {
    /// Subjects that the user may see.
    subjects: usize,
    /// Messages on subjects that there was no room for.
    beyond: u64,
    /// For how long it was counted.
    since_ms: u64,
    levels: Vec<Level>,
    found: Option<Level>,
}

#[derive(Debug, Serialize)]
struct Level {
    under: String,
    rows: Vec<Row>,
    /// Rows that are not shown.
    more: usize,
}

#[derive(Debug, Clone, Serialize)]
struct Row {
    /// The token, or the whole subject where it was searched for.
    token: String,
    /// Messages a second on it and below it.
    rate: f64,
    messages: u64,
    /// Subjects below it, itself not counted.
    subjects: usize,
    /// Whether messages are published on the very subject.
    is_subject: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Subjects(Mutex<Option<Tree>>);

#[derive(Debug)]
struct Tree {
    leaves: BTreeMap<Box<str>, Leaf>,
    beyond: u64,
    began: Instant,
    asked: Instant,
    /// When counts were taken, the latest last.
    steps: Vec<Instant>,
    step: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Leaf {
    messages: u64,
    /// In the last steps; the present one is at `step % STEPS`.
    recent: [u32; STEPS],
    /// The step that `recent` was last brought to.
    step: u64,
}

impl Leaf {
    /// Lets the steps pass in which nothing came.
    fn advance(&mut self, step: u64) {
        for passed in (self.step + 1..=step).take(STEPS) {
            self.recent[(passed % STEPS as u64) as usize] = 0;
        }
        self.step = step;
    }

    fn recent(mut self, step: u64) -> u64 {
        self.advance(step);
        self.recent.iter().map(|count| u64::from(*count)).sum()
    }
}

impl Subjects {
    /// Answers a question and keeps publishers counting. Takes some milliseconds when there are very many subjects, and
    /// so must not run on a worker.
    pub(crate) fn ask(
        &self,
        exchange: &Exchange,
        question: &Question,
        permissions: Option<&Permissions>,
        now: Instant,
    ) -> Answer {
        let mut tree = self.0.lock();
        let tree = tree.get_or_insert_with(|| {
            exchange.count_subjects(true);
            Tree::new(now)
        });
        tree.asked = now;
        if tree.is_due(now) {
            let mut counted = Vec::new();
            for counts in exchange.census.take() {
                tree.beyond += counts.beyond;
                counted.extend(counts.by_subject);
            }
            tree.take(counted.iter().map(|(subject, count)| (&**subject, *count)), now);
        }
        tree.answer(question, permissions, now)
    }

    /// Stops the counting when nobody has asked for a while.
    pub(crate) fn expire(&self, exchange: &Exchange, now: Instant) {
        let mut tree = self.0.lock();
        if tree.as_ref().is_some_and(|tree| now.saturating_duration_since(tree.asked) > LEASE) {
            *tree = None;
            exchange.count_subjects(false);
        }
    }
}

impl Tree {
    fn new(now: Instant) -> Self {
        Self { leaves: BTreeMap::new(), beyond: 0, began: now, asked: now, steps: vec![now], step: 0 }
    }

    fn is_due(&self, now: Instant) -> bool {
        self.steps.last().is_none_or(|last| now.saturating_duration_since(*last) >= STEP)
    }

    fn take<'a>(&mut self, counted: impl Iterator<Item = (&'a str, Count)>, now: Instant) {
        self.step += 1;
        self.steps.push(now);
        if self.steps.len() > STEPS + 1 {
            self.steps.remove(0);
        }
        let mut key = String::new();
        for (subject, count) in counted {
            let subject = if subject.starts_with("_INBOX.") { REPLIES } else { subject };
            key.clear();
            key.extend(subject.chars().map(|c| if c == '.' { DOT } else { c }));
            let leaf = match self.leaves.get_mut(&*key) {
                Some(leaf) => leaf,
                None => self.leaves.entry(key.as_str().into()).or_default(),
            };
            leaf.advance(self.step);
            leaf.messages += count.messages;
            let recent = &mut leaf.recent[(self.step % STEPS as u64) as usize];
            *recent = recent.saturating_add(u32::try_from(count.messages).unwrap_or(u32::MAX));
        }
        self.make_room();
    }

    /// Forgets those that were not published on for longest.
    fn make_room(&mut self) {
        if self.leaves.len() <= MAX_SUBJECTS {
            return;
        }
        let mut steps: Vec<u64> = self.leaves.values().map(|leaf| leaf.step).collect();
        let surplus = self.leaves.len() - MAX_SUBJECTS * 3 / 4;
        let (_, oldest, _) = steps.select_nth_unstable(surplus);
        let (oldest, mut surplus) = (*oldest, surplus);
        self.leaves.retain(|_, leaf| {
            let goes = surplus > 0 && leaf.step <= oldest;
            surplus -= usize::from(goes);
            !goes
        });
    }

    /// How long the steps took that rates are means over.
    fn window(&self) -> f64 {
        let [first, .., last] = &*self.steps else { return 1.0 };
        last.saturating_duration_since(*first).as_secs_f64().max(0.001)
    }

    fn answer(&self, question: &Question, permissions: Option<&Permissions>, now: Instant) -> Answer {
        let sight = Sight::new(permissions);
        let levels = question.under.iter().take(MAX_LEVELS);
        Answer {
            subjects: self.leaves.keys().filter(|key| sight.sees(key)).count(),
            beyond: self.beyond,
            since_ms: u64::try_from(now.saturating_duration_since(self.began).as_millis())
                .unwrap_or(u64::MAX),
            levels: levels.map(|under| self.level(under, &sight)).collect(),
            found: (!question.search.is_empty()).then(|| self.found(&question.search, &sight)),
        }
    }

    /// What stands right below some tokens.
    fn level(&self, under: &str, sight: &Sight<'_>) -> Level {
        let mut prefix: String = under.chars().map(|c| if c == '.' { DOT } else { c }).collect();
        if !prefix.is_empty() {
            prefix.push(DOT);
        }
        let mut rows: HashMap<&str, (u64, Row)> = HashMap::new();
        let from = (Bound::Included(prefix.as_str()), Bound::Unbounded);
        let below = self.leaves.range::<str, _>(from).take_while(|(key, _)| key.starts_with(&prefix));
        for (key, leaf) in below.filter(|(key, _)| sight.sees(key)) {
            let Some(rest) = key.get(prefix.len()..) else { continue };
            let (token, is_subject) = match rest.split_once(DOT) {
                Some((token, _)) => (token, false),
                None => (rest, true),
            };
            let (recent, row) = rows.entry(token).or_insert_with(|| (0, Row::new(token.to_owned())));
            *recent += leaf.recent(self.step);
            row.messages += leaf.messages;
            row.subjects += usize::from(!is_subject);
            row.is_subject |= is_subject;
        }
        self.busiest(under.to_owned(), rows.into_values().collect())
    }

    /// The subjects that a filter matches, or that a text is part of.
    fn found(&self, search: &str, sight: &Sight<'_>) -> Level {
        let filter = Filter::new(search).ok().filter(|_| search.contains(['*', '>']));
        let text = search.to_lowercase();
        let mut rows = Vec::new();
        for (key, leaf) in self.leaves.iter().filter(|(key, _)| sight.sees(key)) {
            let subject = key.replace(DOT, ".");
            let is_found = match filter {
                Some(filter) => Subject::new(&subject).is_ok_and(|subject| filter.matches(subject)),
                None => subject.to_lowercase().contains(&text),
            };
            if is_found {
                let row = Row { messages: leaf.messages, is_subject: true, ..Row::new(subject) };
                rows.push((leaf.recent(self.step), row));
            }
        }
        self.busiest(search.to_owned(), rows)
    }

    /// The rows with most messages, in the order of their names so that they stay where they are.
    fn busiest(&self, under: String, mut rows: Vec<(u64, Row)>) -> Level {
        let more = rows.len().saturating_sub(MAX_ROWS);
        if more > 0 {
            rows.select_nth_unstable_by(MAX_ROWS, |(a, x), (b, y)| {
                (b, y.messages, &x.token).cmp(&(a, x.messages, &y.token))
            });
            rows.truncate(MAX_ROWS);
        }
        let window = self.window();
        let rated = |(recent, row): (u64, Row)| Row { rate: recent as f64 / window, ..row };
        let mut rows: Vec<Row> = rows.into_iter().map(rated).collect();
        rows.sort_unstable_by(|a, b| a.token.cmp(&b.token));
        Level { under, rows, more }
    }
}

impl Row {
    fn new(token: String) -> Self {
        Self { token, rate: 0.0, messages: 0, subjects: 0, is_subject: false }
    }
}

/// Which subjects somebody may see: those that he may subscribe to.
struct Sight<'a>(Option<&'a Permissions>);

impl<'a> Sight<'a> {
    fn new(permissions: Option<&'a Permissions>) -> Self {
        // Whoever may subscribe to everything is not asked again for each subject.
        Self(permissions.filter(|p| p.subscribe_access(Filter::EVERYTHING, None) != Access::All))
    }

    fn sees(&self, key: &str) -> bool {
        let Some(permissions) = self.0 else { return true };
        let subject = key.replace(DOT, ".");
        if subject == REPLIES {
            let replies = Filter::new(REPLIES).expect("it is a filter");
            return permissions.subscribe_access(replies, None) != Access::None;
        }
        Subject::new(&subject).is_ok_and(|subject| permissions.may_receive(subject, None))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attention::COUNTING;
    use waymeet_core::permissions::{Rule, Rules};

    const SECOND: Duration = Duration::from_secs(1);

    fn tree(counts: &[(&str, u64)]) -> (Tree, Instant) {
        let begin = Instant::now();
        let mut tree = Tree::new(begin);
        let counts =
            counts.iter().map(|(subject, messages)| (*subject, Count { messages: *messages, bytes: 0 }));
        tree.take(counts, begin + SECOND);
        (tree, begin + SECOND)
    }

    fn tokens(level: &Level) -> Vec<(&str, u64, usize, bool)> {
        level.rows.iter().map(|row| (&*row.token, row.messages, row.subjects, row.is_subject)).collect()
    }

    fn under(path: &str) -> Question {
        Question { under: vec![path.to_owned()], search: String::new() }
    }

    #[test]
    fn a_level_sums_what_is_below_it() {
        let (tree, now) = tree(&[("a.b", 1), ("a.b.c", 2), ("a-b", 4), ("a.d", 8), ("a", 16), ("b.x.y", 32)]);
        let top = tree.answer(&under(""), None, now);
        assert_eq!(tokens(&top.levels[0]), [("a", 27, 3, true), ("a-b", 4, 0, true), ("b", 32, 1, false)]);
        let below = tree.answer(&under("a"), None, now);
        assert_eq!(tokens(&below.levels[0]), [("b", 3, 1, true), ("d", 8, 0, true)]);
        assert_eq!(top.subjects, 6);
        assert!((top.levels[0].rows[2].rate - 32.0).abs() < 0.01);
    }

    #[test]
    fn a_rate_is_of_the_last_steps_and_goes_to_zero() {
        let (mut tree, mut now) = tree(&[("a", 30)]);
        for (messages, rate) in [(60, 45.0), (0, 30.0), (0, 20.0), (0, 0.0)] {
            now += SECOND;
            let counts = (messages > 0).then_some(("a", Count { messages, bytes: 0 }));
            tree.take(counts.into_iter(), now);
            let answer = tree.answer(&under(""), None, now);
            let shown = answer.levels[0].rows[0].rate;
            assert!((shown - rate).abs() < 0.01, "{shown} and not {rate}");
        }
    }

    #[test]
    fn a_search_is_a_filter_or_a_part_of_the_subject() {
        let (tree, now) = tree(&[("rooms.1.temp", 1), ("rooms.2.temp", 2), ("rooms.2.door", 4)]);
        let find = |search: &str| {
            let question = Question { under: Vec::new(), search: search.to_owned() };
            let answer = tree.answer(&question, None, now);
            answer.found.unwrap().rows.into_iter().map(|row| row.token).collect::<Vec<_>>()
        };
        assert_eq!(find("rooms.*.temp"), ["rooms.1.temp", "rooms.2.temp"]);
        assert_eq!(find("2.D"), ["rooms.2.door"]);
        assert!(find("rooms.>.x").is_empty());
    }

    #[test]
    fn a_user_sees_what_it_may_subscribe_to() {
        let (tree, now) = tree(&[("demo.a", 1), ("demo.secret", 2), ("other", 4), ("_INBOX.x.y", 8)]);
        let rules = Rules {
            allow: Some(vec![Rule::new("demo.>").unwrap()]),
            deny: vec![Rule::new("demo.secret").unwrap()],
        };
        let permissions = Permissions { subscribe: rules, ..Permissions::default() };
        let answer = tree.answer(&under(""), Some(&permissions), now);
        assert_eq!((answer.subjects, tokens(&answer.levels[0])), (1, vec![("demo", 1, 1, false)]));
        let all = tree.answer(&under("_INBOX"), None, now);
        assert_eq!(tokens(&all.levels[0]), [("*", 8, 0, true)]);
    }

    #[test]
    fn publishers_count_only_while_somebody_asks() {
        let metrics = std::sync::Arc::new(crate::metrics::Metrics::new());
        let exchange = Exchange::new(metrics, crate::config::Limits::default());
        let (subjects, now) = (Subjects::default(), Instant::now());
        subjects.ask(&exchange, &under(""), None, now);
        subjects.expire(&exchange, now + LEASE);
        assert_eq!(exchange.attention(), COUNTING);
        subjects.expire(&exchange, now + LEASE + SECOND);
        assert_eq!(exchange.attention(), 0);
    }

    #[test]
    fn there_is_a_bound_and_the_oldest_give_way() {
        let begin = Instant::now();
        let mut tree = Tree::new(begin);
        let names: Vec<String> = (0..MAX_SUBJECTS + 1).map(|n| format!("s.{n}")).collect();
        let one = Count { messages: 1, bytes: 0 };
        tree.take(names[1..].iter().map(|name| (name.as_str(), one)), begin);
        tree.take(std::iter::once((names[0].as_str(), one)), begin + SECOND);
        assert!(tree.leaves.len() <= MAX_SUBJECTS);
        assert!(tree.leaves.contains_key("s\u{1}0"), "the newest stays");
        let level = &tree.answer(&under("s"), None, begin + SECOND).levels[0];
        assert_eq!((level.rows.len(), level.rows.len() + level.more), (MAX_ROWS, tree.leaves.len()));
    }
}
