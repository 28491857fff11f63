//! Asks nodes in parallel, and collects what they answer and what failed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;

use crate::Failure;
use crate::cli::{Invocation, Nodes};
use crate::kubectl::{Kubectl, Output};
use crate::output::{Progress, plural, print_error};
use crate::pods::{self, Target};

/// The most that all nodes together may print.
const TOTAL_LIMIT: usize = 256 << 20;

/// The names of nodes in a message; more are counted.
const NAMED: usize = 3;

/// The most lines of reasons, which may be of as many nodes as a cluster has; more are counted.
const LINES: usize = 100;

/// What to run on each node.
#[derive(Debug)]
pub struct Job {
    /// The exporter's arguments.
    pub arguments: Vec<String>,
    /// The most that a node may print.
    pub limit: usize,
    /// What is added to the deadline: the time that the command takes by intent.
    pub longer: Duration,
}

/// The answers of nodes, in the order of their names.
#[derive(Debug)]
pub struct Answers<T> {
    pub answers: Vec<(String, Result<T, String>)>,
    /// Messages of nodes that answered in part.
    pub notes: Vec<(String, String)>,
}

/// What a node answered, with messages about what is missing.
pub type Parsed<T> = Result<(T, Vec<String>), String>;

/// Runs the job on these nodes. `parse` reads what a node printed.
pub async fn ask<T: Send + 'static>(
    invocation: &Invocation,
    nodes: &Nodes,
    job: Job,
    parse: fn(&str, &Output) -> Parsed<T>,
) -> Result<Answers<T>, Failure> {
    let progress = Progress::new();
    progress.show("finding Keyhole's pods");
    let targets = pods::find(&invocation.kubectl, nodes).await?;
    let (job, kubectl) = (Arc::new(job), Arc::new(invocation.kubectl.clone()));
    let printed = Arc::new(AtomicUsize::new(0));
    let count = targets.len();
    let mut answers: Vec<Option<Result<T, String>>> = targets.iter().map(|_| None).collect();
    let mut notes = Vec::new();
    let (mut waiting, mut ended) = (targets.iter().enumerate(), 0);
    // Dropped with its tasks, each of which kills its child.
    let mut running = JoinSet::new();
    loop {
        while running.len() < invocation.parallel
            && let Some((at, target)) = waiting.next()
        {
            match target.pod.clone() {
                Ok(pod) => {
                    let (node, kubectl, job, printed) =
                        (target.node.clone(), kubectl.clone(), job.clone(), printed.clone());
                    running.spawn(async move {
                        let output = run(&kubectl, &pod, &job, &printed).await;
                        (at, output.and_then(|output| parse(&node, &output)))
                    });
                }
                Err(reason) => {
                    answers[at] = Some(Err(reason));
                    ended += 1;
                }
            }
        }
        progress.show(&format!("{ended} of {}", plural(count, "node")));
        let Some(joined) = running.join_next().await else { break };
        let (at, answer) = joined.map_err(|error| Failure::Failed(error.to_string()))?;
        ended += 1;
        answers[at] = Some(answer.map(|(answer, missing)| {
            notes.extend(missing.into_iter().map(|note| (targets[at].node.clone(), note)));
            answer
        }));
    }
    let answer = |(target, answer): (Target, Option<Result<T, String>>)| {
        (target.node, answer.unwrap_or_else(|| Err("it was not asked".into())))
    };
    Ok(Answers { answers: targets.into_iter().zip(answers).map(answer).collect(), notes })
}

async fn run(kubectl: &Kubectl, pod: &str, job: &Job, printed: &AtomicUsize) -> Result<Output, String> {
    let arguments: Vec<&str> = job.arguments.iter().map(String::as_str).collect();
    let output = kubectl.exec(pod, &arguments, job.limit, job.longer).await?;
    let before = printed.fetch_add(output.stdout.len(), Ordering::Relaxed);
    if before + output.stdout.len() > TOTAL_LIMIT {
        return Err(format!(
            "all nodes together printed more than {} MiB: name collectors, or use --filter",
            TOTAL_LIMIT >> 20
        ));
    }
    Ok(output)
}

impl<T> Answers<T> {
    /// The nodes that answered.
    pub fn good(&self) -> impl Iterator<Item = (&str, &T)> {
        self.answers.iter().filter_map(|(node, answer)| Some((node.as_str(), answer.as_ref().ok()?)))
    }

    /// The nodes that did not, with the reasons.
    fn failed(&self) -> impl Iterator<Item = (&str, &str)> {
        self.answers.iter().filter_map(|(node, answer)| Some((node.as_str(), &**answer.as_ref().err()?)))
    }

    /// Prints what failed and why, a line for each reason; returns the exit status.
    pub fn finish(&self) -> Result<(), Failure> {
        let failed = self.failed().count();
        let notes = self.notes.iter().map(|(node, note)| (node.as_str(), note.as_str()));
        by_reason(notes).iter().for_each(|line| print_error(line));
        if failed > 0 && self.answers.len() > 1 {
            print_error(&format!(
                "error: {failed} of {} did not answer:",
                plural(self.answers.len(), "node")
            ));
        }
        let prefix = if self.answers.len() == 1 { "error: " } else { "" };
        by_reason(self.failed()).iter().for_each(|line| print_error(&format!("{prefix}{line}")));
        match failed {
            0 if self.notes.is_empty() => Ok(()),
            failed if failed == self.answers.len() => Err(Failure::Reported),
            _ => Err(Failure::Partial),
        }
    }
}

/// Lines `NODES: REASON`, of which each reason has one.
pub fn by_reason<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> Vec<String> {
    let mut reasons: Vec<(String, Vec<&str>)> = Vec::new();
    let mut places = BTreeMap::new();
    for (node, reason) in pairs {
        let place = *places.entry(reason).or_insert(reasons.len());
        if place == reasons.len() {
            reasons.push((reason.to_owned(), Vec::new()));
        }
        reasons[place].1.push(node);
    }
    let mut lines: Vec<String> =
        reasons.iter().take(LINES).map(|(reason, nodes)| format!("{}: {reason}", names(nodes))).collect();
    if reasons.len() > LINES {
        lines.push(format!("{} more reasons; --output=json shows them all", reasons.len() - LINES));
    }
    lines
}

/// `node-1, node-2, node-3 and 7 more`.
fn names(nodes: &[&str]) -> String {
    match nodes {
        [shown @ .., _] if nodes.len() > NAMED + 1 => {
            let shown = &shown[..NAMED];
            format!("{} and {} more", shown.join(", "), nodes.len() - NAMED)
        }
        _ => nodes.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_with_the_same_reason_share_a_line() {
        let pairs = [("a", "x"), ("b", "y"), ("c", "x")];
        assert_eq!(by_reason(pairs.into_iter()), ["a, c: x", "b: y"]);
        let many: Vec<String> = (0..100).map(|number| format!("node-{number:02}")).collect();
        let lines = by_reason(many.iter().map(|node| (&**node, "x")));
        assert_eq!(lines, ["node-00, node-01, node-02 and 97 more: x"]);
        assert_eq!(names(&["a", "b", "c", "d"]), "a, b, c, d");
        let lines =
            by_reason(many.iter().chain(&["e".to_owned(), "f".to_owned()]).map(|node| (&**node, &**node)));
        assert_eq!((lines.len(), &*lines[100]), (101, "2 more reasons; --output=json shows them all"));
    }
}
