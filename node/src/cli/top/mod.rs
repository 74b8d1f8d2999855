//! `waymeet top`: a node at a glance, over its HTTP address.
//!
//! Owns the flags and the loop: it asks, it draws, it obeys keys. What is asked is `source`'s, what is known `model`'s, and
//! how it looks `view`'s.

mod exposition;
mod model;
mod source;
mod view;

use std::io::{self, IsTerminal as _};
use std::pin::Pin;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use clap::Args;
use crossterm::event::{Event, EventStream, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use futures_util::StreamExt as _;
use ratatui::DefaultTerminal;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval};

use super::args::{IdentityArgs, duration};
use super::http::{HttpAddress, HttpError};
use super::tls::TlsArgs;
use super::{Failure, on_one_thread, show};
use model::{Model, Prompt, Snapshot};
use source::Source;

/// How large `--once` draws.
const ONCE: (u16, u16) = (120, 40);

#[derive(Debug, Args)]
pub struct TopArgs {
    /// The node's HTTP address
    #[arg(long, value_name = "URL", env = "WAYMEET_HTTP", default_value = "http://127.0.0.1:8080")]
    pub server: HttpAddress,
    /// How often to ask
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = duration)]
    pub interval: Duration,
    /// Print what there is to see as text, once, and leave
    #[arg(long)]
    pub once: bool,
    #[command(flatten)]
    pub identity: IdentityArgs,
    #[command(flatten)]
    pub tls: TlsArgs,
}

/// Watches a node until somebody has seen enough.
pub fn top(args: &TopArgs) -> Result<(), Failure> {
    on_one_thread(async {
        let source = Source::new(args)?;
        let mut model = Model::new(args.server.to_string());
        // Before the screen is taken, so that what is wrong can be read.
        model.learn(source.fetch(&model.query()).await?);
        if args.once {
            tokio::time::sleep(args.interval).await;
            model.learn(source.fetch(&model.query()).await?);
            return show(view::text(&model, ONCE)?);
        }
        if !(io::stdout().is_terminal() && io::stdin().is_terminal()) {
            let text = "`waymeet top` draws on a terminal, and this is none; --once prints the same as text";
            return Err(Failure::Usage(text.to_owned()));
        }
        let mut terminal = ratatui::try_init().context("cannot draw on this terminal")?;
        let outcome = watch(&mut terminal, &mut model, &source, args.interval).await;
        ratatui::restore();
        outcome.map_err(Failure::Failed)
    })
}

/// What has been asked for and not come yet.
type Fetching<'a> = Pin<Box<dyn Future<Output = Result<Snapshot, HttpError>> + 'a>>;

async fn watch(
    terminal: &mut DefaultTerminal,
    model: &mut Model,
    source: &Source,
    step: Duration,
) -> anyhow::Result<()> {
    let mut keys = EventStream::new();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut ticks = interval(step);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut fetching: Option<Fetching<'_>> = None;
    loop {
        terminal.draw(|frame| view::draw(model, frame))?;
        let answer = async {
            match &mut fetching {
                Some(answer) => answer.await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            key = keys.next() => match key.ok_or_else(|| anyhow!("the terminal is gone"))?? {
                Event::Key(key) if key.kind != KeyEventKind::Release => match obey(model, key) {
                    Wish::Leave => return Ok(()),
                    Wish::Look => fetching = Some(ask(source, model)),
                    Wish::Disconnect(id) => {
                        let outcome = source.disconnect(id).await;
                        model.notice = Some(match outcome {
                            Ok(()) => format!("session {id} is disconnected"),
                            Err(error) => format!("session {id}: {error}"),
                        });
                        fetching = Some(ask(source, model));
                    }
                    Wish::Nothing => {}
                },
                _ => {}
            },
            answer = answer => {
                fetching = None;
                match answer {
                    Ok(snapshot) => model.learn(snapshot),
                    // It may come back; what was seen last stays.
                    Err(error) => model.trouble = Some(error.to_string()),
                }
            }
            _ = ticks.tick(), if !model.paused => {
                if fetching.is_none() {
                    fetching = Some(ask(source, model));
                }
            }
            _ = terminate.recv() => return Ok(()),
        }
    }
}

fn ask<'a>(source: &'a Source, model: &Model) -> Fetching<'a> {
    let query = model.query();
    Box::pin(async move { source.fetch(&query).await })
}

/// What a key asks for, besides another picture.
#[derive(Debug, PartialEq, Eq)]
enum Wish {
    Nothing,
    /// Ask the node at once.
    Look,
    Disconnect(u64),
    Leave,
}

fn obey(model: &mut Model, key: KeyEvent) -> Wish {
    if key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c') {
        return Wish::Leave;
    }
    model.notice = None;
    match model.prompt {
        Prompt::Filter => return edit(model, key.code),
        Prompt::Disconnect(id) => {
            model.prompt = Prompt::None;
            return if key.code == KeyCode::Char('y') { Wish::Disconnect(id) } else { Wish::Nothing };
        }
        Prompt::None => {}
    }
    match key.code {
        KeyCode::Char('q') | KeyCode::Esc => return Wish::Leave,
        KeyCode::Char('s') => model.next_sort(),
        KeyCode::Char('r') => model.descending = !model.descending,
        KeyCode::Char('/') => {
            model.prompt = Prompt::Filter;
            return Wish::Nothing;
        }
        KeyCode::Char('p') => {
            model.paused = !model.paused;
            return Wish::Nothing;
        }
        KeyCode::Char('x') => {
            if let Some(id) = model.selected_session() {
                model.prompt = Prompt::Disconnect(id);
            }
            return Wish::Nothing;
        }
        KeyCode::Tab => {
            model.shows_peers = !model.shows_peers;
            return Wish::Nothing;
        }
        KeyCode::Down | KeyCode::Char('j') => {
            model.select(1);
            return Wish::Nothing;
        }
        KeyCode::Up | KeyCode::Char('k') => {
            model.select(-1);
            return Wish::Nothing;
        }
        _ => return Wish::Nothing,
    }
    Wish::Look
}

fn edit(model: &mut Model, key: KeyCode) -> Wish {
    match key {
        KeyCode::Char(c) => model.filter.push(c),
        KeyCode::Backspace => {
            model.filter.pop();
        }
        KeyCode::Enter => model.prompt = Prompt::None,
        KeyCode::Esc => {
            model.filter.clear();
            model.prompt = Prompt::None;
        }
        _ => return Wish::Nothing,
    }
    Wish::Look
}

#[cfg(test)]
mod tests {
    use super::*;

    fn press(model: &mut Model, code: KeyCode) -> Wish {
        obey(model, KeyEvent::new(code, KeyModifiers::NONE))
    }

    #[test]
    fn keys_do_what_the_last_line_says() {
        let mut model = Model::new("here".to_owned());
        assert_eq!(model.query(), "sort=-messages_out&limit=200&filter=");
        assert_eq!(press(&mut model, KeyCode::Char('s')), Wish::Look);
        assert_eq!(press(&mut model, KeyCode::Char('r')), Wish::Look);
        assert_eq!(model.query(), "sort=messages_in&limit=200&filter=");
        press(&mut model, KeyCode::Char('/'));
        for c in "q s".chars() {
            assert_eq!(press(&mut model, KeyCode::Char(c)), Wish::Look, "letters are no commands there");
        }
        assert_eq!(model.query(), "sort=messages_in&limit=200&filter=q%20s");
        press(&mut model, KeyCode::Esc);
        assert!(model.query().ends_with("filter="));
        assert_eq!(press(&mut model, KeyCode::Char('x')), Wish::Nothing, "there is nobody to disconnect");
        assert_eq!(press(&mut model, KeyCode::Char('q')), Wish::Leave);
    }
}
