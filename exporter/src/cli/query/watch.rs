//! `--watch`: repeats the query and shows rates. On a terminal each reading replaces the last.

use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use super::super::terminal::{self, Style, escape_controls, print_error};
use super::super::{Failure, StopSignals};
use super::BrokerQuery;
use super::options::Format;
use super::rates::Rates;
use super::result::QueryResult;

/// Shows readings until the count is reached or a signal arrives, which is no failure. If the broker fails after the
/// first reading, the next readings retry.
pub(super) async fn run(
    broker_query: &BrokerQuery,
    every: Duration,
    signals: &mut StopSignals,
) -> Result<(), Failure> {
    let mut rates = Rates::default();
    let mut clock = interval(every);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut shown = 0u64;
    let mut is_complete = true;
    loop {
        let result = tokio::select! {
            result = async { clock.tick().await; broker_query.result(&mut rates).await } => result,
            _ = signals.next() => break,
        };
        match result {
            Ok(result) => {
                is_complete = result.is_complete();
                if !show(broker_query, &result, shown, every)? {
                    return Ok(());
                }
            }
            Err(error) if shown == 0 => return Err(error.into()),
            Err(error) => {
                is_complete = false;
                print_error(&error);
            }
        }
        shown += 1;
        if broker_query.query.count.is_some_and(|count| shown >= count) {
            break;
        }
    }
    if is_complete { Ok(()) } else { Err(Failure::Partial) }
}

/// Shows a reading. Returns false if nobody reads standard output any more.
fn show(
    broker_query: &BrokerQuery,
    result: &QueryResult,
    shown: u64,
    every: Duration,
) -> Result<bool, Failure> {
    let (query, terminal) = (&broker_query.query, broker_query.terminal);
    let size = terminal.size().filter(|_| query.format == Format::Table);
    let Some((columns, rows)) = size else {
        let mut text = result.render(query, terminal, None);
        // JSON has one line per reading; other readings are separated by an empty line.
        if shown > 0 && query.format != Format::Json {
            text.insert(0, b'\n');
        }
        let read = terminal::write_stdout(&text)?;
        result.print_errors();
        return Ok(read);
    };
    let seconds = every.as_secs_f64();
    let more = if shown == 0 { "; rates from the next reading on" } else { "" };
    let node = result.node_name.as_deref().map(|name| format!("{name}: ")).unwrap_or_default();
    let status =
        escape_controls(&format!("{node}every {seconds} s, reading {}{more}; Ctrl-C ends", shown + 1), false)
            .chars()
            .take(columns)
            .collect::<String>();
    let text = result.render(query, terminal, Some((columns, rows.saturating_sub(2))));
    // One row is the status, one is for the cursor at the end. The screen is overwritten line by line: no flicker.
    let mut screen = if shown == 0 { "\x1b[2J\x1b[H" } else { "\x1b[H" }.to_owned();
    screen.push_str(&terminal.styled(Style::Dim, &status));
    for line in String::from_utf8_lossy(&text).lines() {
        screen.push_str("\x1b[K\n");
        screen.push_str(line);
    }
    screen.push_str("\x1b[K\n\x1b[J");
    let read = terminal::write_stdout(screen.as_bytes())?;
    result.print_errors();
    Ok(read)
}
