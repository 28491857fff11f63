//! `capture`: a node's kernel files as a tar archive on standard output.

use std::io::IsTerminal as _;

use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use crate::cli::{Invocation, Nodes};
use crate::explain::{self, Ended};
use crate::kubectl::{read_stderr, timed_out};
use crate::output::{self, Progress, print_error};
use crate::{Failure, pods};

/// What replay unpacks at most.
const LIMIT: u64 = 512 << 20;

/// A tar archive is of such blocks, and ends with two of zeros.
const BLOCK: u64 = 512;
const END: usize = 1024;

const NOT_TO_BE_USED: &str = "the archive is not to be used";

/// Runs the command.
pub async fn run(invocation: &Invocation, node: &str) -> Result<(), Failure> {
    if std::io::stdout().is_terminal() {
        let reason = format!(
            "standard output is a terminal: write the archive to a file, as in kubectl keyhole capture {node} > {node}.tar"
        );
        return Err(Failure::Usage(reason));
    }
    let progress = Progress::new();
    progress.show("finding Keyhole's pod");
    let targets = pods::find(&invocation.kubectl, &Nodes::One(node.to_owned())).await?;
    let failed = |reason: String| Failure::Failed(format!("{node}: {reason}"));
    let pod = match targets.into_iter().next().map(|target| target.pod) {
        Some(pod) => pod.map_err(failed)?,
        None => return Err(failed("no pod".into())),
    };
    let mut process = invocation.kubectl.start_exec(&pod, &["capture", "-"]).map_err(failed)?;
    let mut archive = process.take_stdout();
    let mut stderr = String::new();
    let deadline = invocation.kubectl.timeout;
    let all = async {
        let read_stderr = read_stderr(process.stderr.take(), &mut stderr);
        let copy = async {
            let (mut part, mut written, mut zeros) = (vec![0; 64 << 10], 0u64, 0usize);
            loop {
                let count = archive.read(&mut part).await.map_err(|error| format!("kubectl: {error}"))?;
                if count == 0 {
                    return Ok((written, zeros));
                }
                written += count as u64;
                if written > LIMIT {
                    return Err(format!("it sent more than {} MiB, and was stopped", LIMIT >> 20));
                }
                let trailing = part[..count].iter().rev().take_while(|byte| **byte == 0).count();
                zeros = if trailing == count { zeros + count } else { trailing };
                match output::print(&part[..count]).await {
                    Ok(true) => {}
                    Ok(false) => return Err("nobody reads standard output".into()),
                    Err(Failure::Failed(error)) => return Err(error),
                    Err(_) => return Err("cannot write to standard output".into()),
                }
                progress.show(&format!("capturing {node}: {:.1} MB", written as f64 / 1e6));
            }
        };
        let ((written, zeros), ()) = tokio::try_join!(copy, async {
            read_stderr.await;
            Ok(())
        })?;
        Ok::<_, String>((written, zeros, process.wait().await?))
    };
    let done = timeout(deadline, all).await;
    drop(progress);
    let (written, zeros, status) = match done {
        Err(_) => return Err(failed(format!("{}; {NOT_TO_BE_USED}", timed_out(deadline, &stderr)))),
        Ok(done) => done.map_err(|error| failed(format!("{error}; {NOT_TO_BE_USED}")))?,
    };
    match explain::status(status, &stderr) {
        // kubectl ends with success, too, when the connection was cut.
        Ok(_) if written % BLOCK != 0 || zeros < END => Err(failed(format!(
            "the archive ends after {written} bytes, too early; {NOT_TO_BE_USED}: try again"
        ))),
        Ok(ended) => {
            // The exporter's summary.
            explain::messages(&stderr).iter().for_each(|message| print_error(message));
            if ended == Ended::Complete { Ok(()) } else { Err(Failure::Partial) }
        }
        Err(error) if written == 0 => Err(failed(error)),
        Err(error) => Err(failed(format!("{error}; {NOT_TO_BE_USED}"))),
    }
}
