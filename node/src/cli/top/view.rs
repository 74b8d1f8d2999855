//! How a node looks on a terminal.
//!
//! Owns the layout and the form of numbers. It must not ask the node. What clients say of themselves comes from anybody, so
//! that nothing of it reaches the terminal that could steer it.

use ratatui::backend::TestBackend;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Cell, Paragraph, Row, Sparkline, Table, TableState};
use ratatui::{Frame, Terminal};
use serde_json::Value;

use super::model::{ListenerRow, Model, Prompt};

const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);
const QUIET: Style = Style::new().fg(Color::DarkGray);
const BAD: Style = Style::new().fg(Color::Red).add_modifier(Modifier::BOLD);
const KEYS: &str = "q quit  s sort  r reverse  / filter  ↑↓ select  x disconnect  Tab peers  p pause";

/// The picture as text, without colours.
pub fn text(model: &Model, (width, height): (u16, u16)) -> anyhow::Result<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height))?;
    terminal.draw(|frame| draw(model, frame))?;
    let buffer = terminal.backend().buffer();
    let mut text = String::new();
    for row in buffer.content().chunks(usize::from(width)) {
        let line: String = row.iter().map(ratatui::buffer::Cell::symbol).collect();
        text.push_str(line.trim_end());
        text.push('\n');
    }
    Ok(text.trim_end().to_owned() + "\n")
}

/// Draws everything.
pub fn draw(model: &Model, frame: &mut Frame<'_>) {
    let listeners = model.listeners();
    // The heading of the table and its two lines.
    let table = u16::try_from(listeners.len()).unwrap_or(u16::MAX).saturating_add(3);
    let parts = Layout::vertical([
        Constraint::Length(4),
        Constraint::Length(5),
        Constraint::Length(table),
        Constraint::Min(4),
        Constraint::Length(1),
    ]);
    let [head, curves, by_listener, list, foot] = parts.areas(frame.area());
    frame.render_widget(Paragraph::new(heading(model)), head);
    draw_curves(model, frame, curves);
    draw_listeners(&listeners, frame, by_listener);
    if model.shows_peers {
        draw_peers(model, frame, list)
    } else {
        draw_sessions(model, frame, list)
    }
    frame.render_widget(Paragraph::new(last_line(model)), foot);
}

fn heading(model: &Model) -> Vec<Line<'static>> {
    let (name, id) = model.node().unwrap_or(("a node", ""));
    let version = model.version().map(|version| format!("  v{version}")).unwrap_or_default();
    let uptime = model.uptime_seconds().map(|seconds| format!("  up {}", duration(seconds * 1_000)));
    let state = if model.paused { "  paused" } else { "" };
    let rate = |name| count(model.rate(name, &[]));
    let bytes = |name| size(model.rate(name, &[]));
    let drops: Vec<String> =
        model.drops().into_iter().map(|(reason, dropped)| format!("{reason} {}", count(dropped))).collect();
    let lost = if drops.is_empty() { "nothing".to_owned() } else { drops.join(", ") };
    vec![
        Line::from(vec![
            Span::styled(clean(name), BOLD),
            Span::raw(format!("{version}{}  {}{state}  ", uptime.unwrap_or_default(), model.server)),
            Span::styled(clean(id), QUIET),
        ]),
        Line::from(format!(
            "in {}/s, {}/s    out {}/s, {}/s    unmatched {}/s",
            rate("waymeet_messages_in_total"),
            bytes("waymeet_bytes_in_total"),
            rate("waymeet_messages_out_total"),
            bytes("waymeet_bytes_out_total"),
            rate("waymeet_messages_unmatched_total"),
        )),
        Line::from(format!(
            "sessions {}    subscriptions {}    waiting {}    memory {}    CPU {:.0}%",
            count(model.value("waymeet_sessions", &[])),
            count(model.value("waymeet_subscriptions", &[])),
            size(model.value("waymeet_buffered_bytes", &[])),
            size(model.value("process_resident_memory_bytes", &[])),
            model.rate("process_cpu_seconds_total", &[]) * 100.0,
        )),
        Line::from(vec![Span::raw("lost "), Span::styled(lost, if drops.is_empty() { QUIET } else { BAD })]),
    ]
}

fn draw_curves(model: &Model, frame: &mut Frame<'_>, area: Rect) {
    let halves = Layout::horizontal([Constraint::Ratio(1, 2); 2]);
    let [left, right] = halves.areas(area);
    for (title, half, pick) in [
        (" in, messages/s ", left, (|point| point.0) as fn(&(u64, u64)) -> u64),
        (" out, messages/s ", right, |point| point.1),
    ] {
        let width = usize::from(half.width.saturating_sub(2));
        let points = model.history.iter().skip(model.history.len().saturating_sub(width)).map(pick);
        let curve = Sparkline::default()
            .block(Block::default().borders(Borders::ALL).title(title))
            .style(Style::new().fg(Color::Cyan))
            .data(points.collect::<Vec<_>>());
        frame.render_widget(curve, half);
    }
}

fn draw_listeners(listeners: &[ListenerRow], frame: &mut Frame<'_>, area: Rect) {
    let rows = listeners.iter().map(|row| {
        let dropped = Cell::from(right(&count(row.dropped)));
        Row::new(vec![
            Cell::from(row.name.clone()),
            Cell::from(right(&count(row.sessions))),
            Cell::from(right(&count(row.messages_in))),
            Cell::from(right(&count(row.messages_out))),
            Cell::from(right(&size(row.bytes_in))),
            Cell::from(right(&size(row.bytes_out))),
            if row.dropped > 0.0 { dropped.style(BAD) } else { dropped },
        ])
    });
    let names = ["LISTENER", "SESSIONS", "IN/s", "OUT/s", "BYTES IN/s", "BYTES OUT/s", "DROPPED"];
    let table = Table::new(rows, [Constraint::Length(12); 7])
        .header(header(&names, 1))
        .block(Block::default().borders(Borders::TOP | Borders::BOTTOM));
    frame.render_widget(table, area);
}

fn draw_sessions(model: &Model, frame: &mut Frame<'_>, area: Rect) {
    let order = if model.descending { "largest first" } else { "smallest first" };
    let title = match model.sessions_total() {
        Some(total) => format!(" {total} sessions, by {}, {order} ", model.sort()),
        None => " sessions: this user may not see them ".to_owned(),
    };
    let number =
        |session: &Value, name: &str| Cell::from(right(&count(session[name].as_f64().unwrap_or(0.0))));
    let rows = model.sessions().iter().map(|session| {
        let millis = |name: &str| duration(session[name].as_u64().unwrap_or(0));
        let row = Row::new(vec![
            Cell::from(right(&word(session, "id"))),
            Cell::from(word(session, "listener")),
            Cell::from(word(session, "address")),
            Cell::from(word(session, "user")),
            Cell::from(word(session, "name")),
            number(session, "subscriptions"),
            number(session, "messages_in"),
            number(session, "messages_out"),
            Cell::from(right(&size(session["outbox_bytes"].as_f64().unwrap_or(0.0)))),
            number(session, "dropped"),
            Cell::from(right(&millis("idle_ms"))),
            Cell::from(if session["slow"] == true { "SLOW" } else { "" }),
        ]);
        if session["slow"] == true { row.style(BAD) } else { row }
    });
    let names =
        ["ID", "LISTENER", "ADDRESS", "USER", "NAME", "SUBS", "IN", "OUT", "OUTBOX", "DROPPED", "IDLE", ""];
    let widths = [8, 9, 21, 10, 16, 7, 8, 8, 8, 8, 7, 4].map(Constraint::Length);
    let table = Table::new(rows, widths)
        .header(header(&names, 5))
        .block(Block::default().title(title))
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
    let mut state = TableState::default().with_selected(model.selected);
    frame.render_stateful_widget(table, area, &mut state);
}

fn draw_peers(model: &Model, frame: &mut Frame<'_>, area: Rect) {
    let Some(peers) = model.peers() else {
        frame.render_widget(Paragraph::new(" peers: this user may not see them "), area);
        return;
    };
    let rows = peers.iter().map(|peer| {
        let rtt = peer["rtt_ms"].as_f64().map_or_else(|| "-".to_owned(), |ms| format!("{ms:.1} ms"));
        let mut cells: Vec<Cell<'_>> =
            ["name", "id", "transport", "via"].map(|name| Cell::from(word(peer, name))).into();
        cells.push(Cell::from(rtt));
        let numbers = ["interests", "messages_in", "messages_out"];
        cells.extend(numbers.map(|name| Cell::from(right(&count(peer[name].as_f64().unwrap_or(0.0))))));
        Row::new(cells)
    });
    let names = ["NAME", "ID", "OVER", "VIA", "RTT", "WANTS", "IN", "OUT"];
    let widths = [16, 54, 10, 10, 10, 8, 8, 8].map(Constraint::Length);
    let title = format!(" {} other nodes ", peers.len());
    let table = Table::new(rows, widths).header(header(&names, 5)).block(Block::default().title(title));
    frame.render_widget(table, area);
}

fn last_line(model: &Model) -> Line<'static> {
    match (model.prompt, &model.trouble, &model.notice) {
        (Prompt::Filter, ..) => {
            Line::from(format!("filter: {}█  (Enter keeps it, Esc clears it)", clean(&model.filter)))
        }
        (Prompt::Disconnect(id), ..) => Line::styled(format!("disconnect session {id}? y/n"), BAD),
        (_, Some(trouble), _) => Line::styled(clean(trouble), BAD),
        (_, _, Some(notice)) => Line::from(clean(notice)),
        _ if !model.filter.is_empty() => Line::from(format!("filter: {}   {KEYS}", clean(&model.filter))),
        _ => Line::styled(KEYS, QUIET),
    }
}

/// A heading whose names stand over numbers from the column `from` on.
fn header(names: &[&'static str], from: usize) -> Row<'static> {
    let cell = |(at, name): (usize, &&'static str)| {
        if at >= from { Cell::from(right(name)) } else { Cell::from(*name) }
    };
    Row::new(names.iter().enumerate().map(cell)).style(BOLD)
}

fn right(text: &str) -> Line<'static> {
    Line::from(text.to_owned()).right_aligned()
}

/// A member of an answer that is a text or a number.
fn word(value: &Value, name: &str) -> String {
    match &value[name] {
        Value::Null => "-".to_owned(),
        Value::String(text) => clean(text),
        other => clean(&other.to_string()),
    }
}

fn clean(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect()
}

/// A number in four places or so.
fn count(number: f64) -> String {
    scaled(number, 1_000.0, &["", "k", "M", "G", "T"])
}

/// Bytes in four places or so.
fn size(bytes: f64) -> String {
    scaled(bytes, 1_024.0, &[" B", " KiB", " MiB", " GiB", " TiB"])
}

fn scaled(number: f64, step: f64, units: &[&str]) -> String {
    let mut scaled = number;
    let mut at = 0;
    while scaled >= step && at + 1 < units.len() {
        scaled /= step;
        at += 1;
    }
    let places = usize::from(at > 0 && scaled < 100.0);
    format!("{scaled:.places$}{}", units[at])
}

fn duration(ms: u64) -> String {
    let seconds = ms / 1_000;
    match seconds {
        0 => format!("{ms}ms"),
        1..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m{}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h{}m", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{}d{}h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::super::model::tests::looked;
    use super::*;

    #[test]
    fn everything_is_seen_at_a_glance() {
        let mut model = looked();
        let picture = text(&model, (120, 30)).unwrap();
        for part in [
            "left  v0.1.0",
            "in 100/s",
            "out 200/s",
            "lost slow_subscriber 7",
            "2 sessions, by messages_out, largest first",
            "127.0.0.1:1",
            "ada[2J",
            "SLOW",
            "2.0 KiB",
            "q quit",
        ] {
            assert!(picture.contains(part), "{part} is not in\n{picture}");
        }
        assert!(!picture.contains('\u{1b}'), "a name cannot steer the terminal");
        model.shows_peers = true;
        let picture = text(&model, (120, 30)).unwrap();
        assert!(picture.contains("1 other nodes") && picture.contains("right"), "{picture}");
    }

    #[test]
    fn every_size_of_terminal_is_drawn_on() {
        let model = looked();
        for size in [(1, 1), (20, 5), (40, 10), (300, 100)] {
            text(&model, size).unwrap();
        }
    }

    #[test]
    fn numbers_are_short() {
        for (number, text) in
            [(0.0, "0"), (999.0, "999"), (1_000.0, "1.0k"), (123_456.0, "123k"), (2.5e9, "2.5G")]
        {
            assert_eq!(count(number), text);
        }
        assert_eq!(size(1_536.0), "1.5 KiB");
        assert_eq!(duration(61_000), "1m1s");
    }
}
