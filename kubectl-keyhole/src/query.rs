//! `query`: the metrics of one node or of all, once or repeatedly.

use std::io::IsTerminal as _;
use std::time::Duration;

use serde::Serialize;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::time::timeout;

use crate::cli::{Format, Invocation, Nodes, Query};
use crate::explain::{self, Ended};
use crate::fleet::{self, Job, Parsed};
use crate::kubectl::{Output, read_stderr, timed_out, too_large};
use crate::output::{self, Column, Table, left, print_error, right};
use crate::reading::{LIMIT, Reading};
use crate::{Failure, pods};

/// Runs the command.
pub async fn run(invocation: &Invocation, query: &Query) -> Result<(), Failure> {
    if let (Nodes::One(_), Some(every)) = (&query.nodes, query.watch) {
        return watch(invocation, query, every).await;
    }
    let job = Job { arguments: arguments(query), limit: LIMIT, longer: Duration::ZERO };
    let answers = fleet::ask(invocation, &query.nodes, job, parse).await?;
    let is_one = matches!(query.nodes, Nodes::One(_));
    let text = match query.format {
        Format::Json if is_one => match answers.good().next() {
            Some((_, reading)) => output::json(reading, true)?,
            None => String::new(),
        },
        Format::Json => {
            let items: Vec<Item<'_>> = answers.answers.iter().map(Item::new).collect();
            output::json(&items, true)?
        }
        Format::Table if answers.good().next().is_none() => String::new(),
        Format::Table => table(answers.good(), !is_one, false, query.headers),
    };
    output::print(text).await?;
    answers.finish()
}

/// The arguments of the exporter.
fn arguments(query: &Query) -> Vec<String> {
    let mut arguments = vec!["query".to_owned(), "--output=json".to_owned()];
    if !query.filter.is_empty() {
        arguments.push(format!("--filter={}", query.filter));
    }
    if let Some(every) = query.watch {
        arguments.push(format!("--watch={}ms", every.as_millis()));
    }
    if query.count > 0 {
        arguments.push(format!("--count={}", query.count));
    }
    arguments.extend(query.collectors.iter().cloned());
    arguments
}

fn parse(node: &str, output: &Output) -> Parsed<Reading> {
    let ended = explain::ended(output)?;
    let reading = Reading::parse(node, &output.stdout)?;
    let missing = match ended {
        Ended::Complete => Vec::new(),
        Ended::Partial(messages) => {
            let failures = reading.failures();
            if failures.is_empty() { messages } else { failures }
        }
    };
    Ok((reading, missing))
}

/// An element of the array for all nodes.
#[derive(Serialize)]
#[serde(untagged)]
enum Item<'a> {
    Reading(&'a Reading),
    Failed(serde_json::Value),
}

impl<'a> Item<'a> {
    fn new((node, answer): &'a (String, Result<Reading, String>)) -> Self {
        match answer {
            Ok(reading) => Self::Reading(reading),
            Err(error) => Self::Failed(json!({ "error": error, "node": node })),
        }
    }
}

/// A table of readings, with a column for the node's name and one for rates.
fn table<'a>(
    readings: impl Iterator<Item = (&'a str, &'a Reading)>,
    with_node: bool,
    with_rates: bool,
    head: bool,
) -> String {
    let columns = [
        with_node.then_some(left("NODE")),
        Some(left("METRIC")),
        Some(right("VALUE")),
        with_rates.then_some(right("PER SECOND")),
        Some(left("LABELS")),
    ];
    let columns: Vec<Column> = columns.into_iter().flatten().collect();
    let mut table = Table::new(columns);
    for (node, reading) in readings {
        for metric in &reading.metrics {
            let rate = || metric.rate.as_ref().and_then(|rate| rate.number());
            let cells = [
                with_node.then(|| node.to_owned()),
                Some(metric.name.clone()),
                Some(metric.value.text()),
                with_rates.then(|| rate().map(|rate| format!("{rate:.3}")).unwrap_or_default()),
                Some(metric.labels.text()),
            ];
            table.row(cells.into_iter().flatten());
        }
    }
    table.text(head)
}

/// Shows each result of one node as it comes. Ctrl-C ends it.
async fn watch(invocation: &Invocation, query: &Query, every: Duration) -> Result<(), Failure> {
    let targets = pods::find(&invocation.kubectl, &query.nodes).await?;
    let [target] = &targets[..] else { return Err(Failure::Failed("no node".into())) };
    let failed = |reason: String| Failure::Failed(format!("{}: {reason}", target.node));
    let pod = target.pod.as_ref().map_err(|reason| failed(reason.clone()))?;
    let arguments = arguments(query);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut process = invocation.kubectl.start_exec(pod, &arguments).map_err(failed)?;
    let mut lines = BufReader::new(process.take_stdout());
    let mut stderr = String::new();
    let mut shown = 0u64;
    let ended = {
        let read_stderr = read_stderr(process.stderr.take(), &mut stderr);
        let show = async {
            let deadline = invocation.kubectl.timeout + every;
            loop {
                let mut line = Vec::new();
                let mut bounded = (&mut lines).take(LIMIT as u64 + 1);
                match timeout(deadline, bounded.read_until(b'\n', &mut line)).await {
                    Err(_) => return Err(failed(timed_out(deadline, ""))),
                    Ok(Err(error)) => return Err(failed(format!("kubectl: {error}"))),
                    Ok(Ok(0)) => return Ok(true),
                    Ok(Ok(_)) if line.len() > LIMIT => return Err(failed(too_large(LIMIT))),
                    // It does not decide when this ends.
                    Ok(Ok(_)) if query.count > 0 && shown == query.count => {
                        return Err(failed(format!("it printed more than {} results", query.count)));
                    }
                    Ok(Ok(_)) => {}
                }
                let reading = Reading::parse(&target.node, &line).map_err(failed)?;
                if !show(query, &target.node, &reading, shown, every).await? {
                    return Ok(false);
                }
                shown += 1;
            }
        };
        tokio::pin!(read_stderr, show);
        tokio::select! {
            // What failed is printed when the run has ended.
            done = &mut show => {
                let is_read = done?;
                if is_read {
                    let _ = timeout(invocation.kubectl.timeout, read_stderr).await;
                }
                is_read
            }
            () = &mut read_stderr => show.await?,
        }
    };
    if !ended {
        // Nobody reads standard output any more.
        return Ok(());
    }
    let waited = timeout(invocation.kubectl.timeout, process.wait()).await;
    let status =
        waited.map_err(|_| failed(timed_out(invocation.kubectl.timeout, &stderr)))?.map_err(failed)?;
    match explain::status(status, &stderr) {
        Ok(Ended::Complete) if query.count > 0 => Ok(()),
        Ok(Ended::Complete) => Err(failed("it ended: the pod was stopped".into())),
        Ok(Ended::Partial(messages)) => {
            messages.iter().for_each(|message| print_error(message));
            Err(Failure::Partial)
        }
        Err(error) if shown == 0 => Err(failed(error)),
        Err(error) => {
            print_error(&format!("error: {}: {error}", target.node));
            Err(Failure::Partial)
        }
    }
}

/// Shows a result: on a terminal in place of the one before. Returns false if nobody reads standard output any more.
async fn show(
    query: &Query,
    node: &str,
    reading: &Reading,
    shown: u64,
    every: Duration,
) -> Result<bool, Failure> {
    if query.format == Format::Json {
        return output::print(output::json(reading, false)?).await;
    }
    let text = table([(node, reading)].into_iter(), false, true, query.headers);
    let mut screen = String::new();
    if std::io::stdout().is_terminal() {
        let (columns, rows) = terminal_size();
        let status = format!("{node}: every {every:?}, result {}; Ctrl-C ends", shown + 1);
        screen.push_str(if shown == 0 { "\x1b[2J\x1b[H" } else { "\x1b[H" });
        // The last row is for the cursor.
        for line in [&*status].into_iter().chain(text.lines()).take(rows.saturating_sub(1)) {
            screen.extend(line.chars().take(columns));
            screen.push_str("\x1b[K\n");
        }
        screen.push_str("\x1b[J");
    } else {
        if shown > 0 {
            screen.push('\n');
        }
        screen.push_str(&text);
    }
    output::print(screen).await
}

fn terminal_size() -> (usize, usize) {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok();
    let size = size.filter(|size| size.ws_col > 0 && size.ws_row > 0);
    size.map_or((80, 24), |size| (size.ws_col.into(), size.ws_row.into()))
}
