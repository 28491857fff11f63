//! `--watch`: the same again and again, with rates. On a terminal each reading takes the place of the last.

use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use super::super::screen::{self, Style, complain, harmless};
use super::super::{Failure, Stops};
use super::Asked;
use super::choice::Format;
use super::frame::Frame;
use super::rates::Rates;

/// Shows reading after reading, until the count is reached or a signal says so, which is the usual end and no failure.
/// A broker that goes away after the first reading is waited for.
pub(super) async fn run(asked: &Asked<'_>, every: Duration, stops: &mut Stops) -> Result<(), Failure> {
    let mut rates = Rates::default();
    let mut clock = interval(every);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut shown = 0u64;
    let mut whole = true;
    loop {
        let frame = tokio::select! {
            frame = async { clock.tick().await; asked.frame(&mut rates).await } => frame,
            _ = stops.next() => break,
        };
        match frame {
            Ok(frame) => {
                whole = frame.is_whole();
                if !show(asked, &frame, shown, every)? {
                    return Ok(());
                }
            }
            Err(error) if shown == 0 => return Err(error.into()),
            Err(error) => {
                whole = false;
                complain(&error);
            }
        }
        shown += 1;
        if asked.choice.count.is_some_and(|count| shown >= count) {
            break;
        }
    }
    if whole { Ok(()) } else { Err(Failure::Partial) }
}

/// Shows a reading; whether anybody looks.
fn show(asked: &Asked<'_>, frame: &Frame, shown: u64, every: Duration) -> Result<bool, Failure> {
    let (choice, screen) = (&asked.choice, asked.screen);
    let size = screen.size().filter(|_| choice.format == Format::Table);
    let Some((columns, rows)) = size else {
        let mut text = frame.render(choice, screen, None);
        // JSON has a line a reading; the others are kept apart by an empty one.
        if shown > 0 && choice.format != Format::Json {
            text.insert(0, b'\n');
        }
        let read = screen::write(&text)?;
        frame.complain();
        return Ok(read);
    };
    let seconds = every.as_secs_f64();
    let more = if shown == 0 { "; rates from the next reading on" } else { "" };
    let node = frame.node_name.as_deref().map(|name| format!("{name}: ")).unwrap_or_default();
    let status =
        harmless(&format!("{node}every {seconds} s, reading {}{more}; Ctrl-C ends", shown + 1), false)
            .chars()
            .take(columns)
            .collect::<String>();
    let text = frame.render(choice, screen, Some((columns, rows.saturating_sub(2))));
    // One row is the status, and one is where the cursor stands at the end.
    // Home, each line up to its end, and nothing below: no flicker.
    let mut whole = if shown == 0 { "\x1b[2J\x1b[H" } else { "\x1b[H" }.to_owned();
    whole.push_str(&screen.paint(Style::Dim, &status));
    for line in String::from_utf8_lossy(&text).lines() {
        whole.push_str("\x1b[K\n");
        whole.push_str(line);
    }
    whole.push_str("\x1b[K\n\x1b[J");
    let read = screen::write(whole.as_bytes())?;
    frame.complain();
    Ok(read)
}
