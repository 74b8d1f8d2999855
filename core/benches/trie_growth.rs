//! How the subscription trie's costs grow: matching, memory, subscribing and unsubscribing with 1 to
//! 1,000,000 subscriptions, literal and wildcard.
//!
//! Prints one JSON object for each size. `cargo xtask bench --growth` draws the curves. Without `--bench`,
//! as `cargo test` runs it, only the smallest sizes are done.

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use waymeet_core::router::Router;
use waymeet_core::{Filter, Subject};

const SIZES: [usize; 7] = [1, 10, 100, 1_000, 10_000, 100_000, 1_000_000];
/// What `cargo test` does.
const SMOKE_SIZES: [usize; 3] = [1, 10, 100];
/// Smaller tries are built anew until so many subscriptions were added.
const MIN_SUBSCRIBED: usize = 200_000;
/// Subjects that are matched in turn, spread over all subscriptions.
const SUBJECTS: usize = 10_000;
const MATCHES: usize = 100_000;
/// The fastest of so many passes counts: the others were disturbed.
const PASSES: usize = 5;

/// Bytes that are allocated now.
static LIVE_BYTES: AtomicUsize = AtomicUsize::new(0);

struct Counting;

// SAFETY: every call is handed to the system's allocator unchanged; counting allocates nothing. `realloc`
// and `alloc_zeroed` are the trait's own, which call these two.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE_BYTES.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE_BYTES.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A way to make filters, and the subject that the filter matches, by number.
struct Kind {
    name: &'static str,
    filter: fn(usize) -> String,
    subject: fn(usize) -> String,
}

const KINDS: [Kind; 2] = [
    Kind {
        name: "literal",
        filter: |number| format!("site.{:03}.sensor.{number}", number % 1_000),
        subject: |number| format!("site.{:03}.sensor.{number}", number % 1_000),
    },
    Kind {
        name: "wildcard",
        filter: |number| format!("site.{:03}.*.{number}.>", number % 1_000),
        subject: |number| format!("site.{:03}.sensor.{number}.value", number % 1_000),
    },
];

fn main() {
    let is_measured = std::env::args().any(|argument| argument == "--bench");
    let sizes: &[usize] = if is_measured { &SIZES } else { &SMOKE_SIZES };
    for kind in &KINDS {
        for &size in sizes {
            let (min_subscribed, matches) =
                if is_measured { (MIN_SUBSCRIBED, MATCHES) } else { (size, size) };
            measure(kind, size, min_subscribed, matches);
        }
    }
}

fn measure(kind: &Kind, size: usize, min_subscribed: usize, matches: usize) {
    let filters: Vec<String> = (0..size).map(kind.filter).collect();
    let filters: Vec<Filter<'_>> =
        filters.iter().map(|text| Filter::new(text).expect("the filter is well formed")).collect();
    let repetitions = min_subscribed.div_ceil(size);
    let (mut subscribing, mut unsubscribing) = (Duration::ZERO, Duration::ZERO);
    let mut bytes = 0;
    for _ in 0..repetitions {
        let mut keys = Vec::with_capacity(size);
        let before = LIVE_BYTES.load(Ordering::Relaxed);
        let mut router: Router<u64> = Router::default();
        let begun = Instant::now();
        keys.extend((0..).zip(&filters).map(|(target, filter)| router.insert(*filter, None, target)));
        subscribing += begun.elapsed();
        bytes = LIVE_BYTES.load(Ordering::Relaxed) - before;
        let begun = Instant::now();
        for key in keys {
            router.remove(key);
        }
        unsubscribing += begun.elapsed();
        assert!(router.is_empty());
    }
    let subscribed = (size * repetitions) as f64;
    println!(
        "{}",
        json!({
            "kind": kind.name,
            "subscriptions": size,
            "match_ns": match_ns(kind, &filters, matches),
            "bytes_per_subscription": bytes as f64 / size as f64,
            "subscribes_per_second": subscribed / subscribing.as_secs_f64(),
            "unsubscribes_per_second": subscribed / unsubscribing.as_secs_f64(),
        })
    );
}

/// How long one match takes, whose answer is one subscription.
fn match_ns(kind: &Kind, filters: &[Filter<'_>], matches: usize) -> f64 {
    let mut router: Router<u64> = Router::default();
    for (target, filter) in (0..).zip(filters) {
        router.insert(*filter, None, target);
    }
    // A stride without a common factor visits all parts of the trie in an order that no cache likes.
    let number = |index: usize| (index * 7_919) % filters.len();
    let subjects: Vec<String> =
        (0..SUBJECTS.min(filters.len())).map(|index| (kind.subject)(number(index))).collect();
    let subjects: Vec<Subject<'_>> =
        subjects.iter().map(|text| Subject::new(text).expect("the subject is well formed")).collect();
    let pass = || {
        let begun = Instant::now();
        let mut found = 0;
        for subject in subjects.iter().cycle().take(matches) {
            found += black_box(router.matches(black_box(*subject))).plain.len();
        }
        let elapsed = begun.elapsed();
        assert_eq!(found, matches, "every subject matches one subscription");
        elapsed.as_nanos() as f64 / matches as f64
    };
    (0..PASSES).map(|_| pass()).fold(f64::INFINITY, f64::min)
}
