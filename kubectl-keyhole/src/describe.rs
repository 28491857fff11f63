//! `describe`: what the broker of a node can answer; of all nodes, a line each.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::Failure;
use crate::cli::{Describe, Format, Invocation, Nodes};
use crate::explain;
use crate::fleet::{self, Job, Parsed};
use crate::kubectl::Output;
use crate::output::{self, Table, escape, left, right};
use crate::reading::invalid;

/// The most that a node may print: a description is 40 KB.
const LIMIT: usize = 1 << 20;

/// Runs the command.
pub async fn run(invocation: &Invocation, describe: &Describe) -> Result<(), Failure> {
    let is_one = matches!(describe.nodes, Nodes::One(_));
    let is_text = is_one && describe.format == Format::Table;
    let mut arguments = vec!["describe".to_owned()];
    arguments.push(format!("--output={}", if is_text { "table" } else { "json" }));
    if !describe.filter.is_empty() {
        arguments.push(format!("--filter={}", describe.filter));
    }
    if is_text && !describe.headers {
        arguments.push("--no-headers".to_owned());
    }
    let job = Job { arguments, limit: LIMIT, longer: Duration::ZERO };
    let parse = if is_text { parse_text } else { parse_json };
    let answers = fleet::ask(invocation, &describe.nodes, job, parse).await?;
    let text = match (describe.format, answers.good().next()) {
        (Format::Json, _) if !is_one => {
            let item = |(node, answer): &(String, Result<Answer, String>)| match answer {
                Ok(Answer::Json(description, _)) => description.clone(),
                Ok(Answer::Text(_)) => json!({ "node": node }),
                Err(error) => json!({ "error": error, "node": node }),
            };
            output::json(&answers.answers.iter().map(item).collect::<Vec<Value>>(), true)?
        }
        (_, None) => String::new(),
        (_, Some((_, Answer::Text(text)))) => text.clone(),
        (Format::Json, Some((_, Answer::Json(description, _)))) => output::json(description, true)?,
        (Format::Table, Some(_)) => {
            let summaries = answers.good().filter_map(|(node, answer)| match answer {
                Answer::Json(_, summary) => Some((node, summary)),
                Answer::Text(_) => None,
            });
            table(summaries, describe.headers)
        }
    };
    output::print(text).await?;
    answers.finish()
}

/// What a node printed.
#[derive(Debug)]
enum Answer {
    /// For people.
    Text(String),
    /// For programs, and what the table of all nodes shows of it.
    Json(Value, Summary),
}

fn parse_text(_: &str, output: &Output) -> Parsed<Answer> {
    explain::ended(output)?;
    let text = String::from_utf8_lossy(&output.stdout);
    let lines = text.lines().map(|line| escape(line).into_owned() + "\n");
    Ok((Answer::Text(lines.collect()), Vec::new()))
}

fn parse_json(node: &str, output: &Output) -> Parsed<Answer> {
    explain::ended(output)?;
    let summary: Summary = serde_json::from_slice(&output.stdout).map_err(|error| invalid(&error))?;
    let mut description: Value = serde_json::from_slice(&output.stdout).map_err(|error| invalid(&error))?;
    if let Value::Object(fields) = &mut description {
        fields.insert("node".into(), node.into());
    }
    Ok((Answer::Json(description, summary), Vec::new()))
}

/// What the table shows.
#[derive(Debug, Deserialize)]
struct Summary {
    version: String,
    uid: u64,
    access_level: String,
    proc_view: String,
    layers: Vec<Layer>,
    readers: Vec<Reader>,
    queries: Vec<Query>,
}

#[derive(Debug, Deserialize)]
struct Layer {
    in_force: bool,
}

#[derive(Debug, Deserialize)]
struct Reader {
    available: bool,
}

#[derive(Debug, Deserialize)]
struct Query {
    available: bool,
    stuck: bool,
}

fn table<'a>(summaries: impl Iterator<Item = (&'a str, &'a Summary)>, head: bool) -> String {
    let mut table = Table::new([
        left("NODE"),
        left("VERSION"),
        right("UID"),
        left("ACCESS LEVEL"),
        left("/PROC"),
        right("QUERIES"),
        right("READERS"),
        right("SANDBOX LAYERS"),
    ]);
    for (node, summary) in summaries {
        let of = |good: usize, all: usize| format!("{good}/{all}");
        let queries = summary.queries.iter().filter(|query| query.available && !query.stuck).count();
        let readers = summary.readers.iter().filter(|reader| reader.available).count();
        let layers = summary.layers.iter().filter(|layer| layer.in_force).count();
        table.row([
            node,
            &summary.version,
            &summary.uid.to_string(),
            &summary.access_level,
            // The view is followed by what hides a part of it.
            summary.proc_view.split(',').next().unwrap_or_default(),
            &of(queries, summary.queries.len()),
            &of(readers, summary.readers.len()),
            &of(layers, summary.layers.len()),
        ]);
    }
    table.text(head)
}
