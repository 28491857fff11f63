//! `capture`: a node's kernel files as a tar archive on standard output.

use std::io::{IsTerminal as _, Write as _};

use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use crate::cli::{Invocation, Nodes};
use crate::explain::{self, Ended};
use crate::kubectl::{read_stderr, timed_out};
use crate::output::{Progress, print_error};
use crate::{Failure, pods};

/// What replay unpacks at most.
const LIMIT: u64 = 512 << 20;

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
            let (mut out, mut part, mut written) = (std::io::stdout(), vec![0; 64 << 10], 0u64);
            loop {
                let count = archive.read(&mut part).await.map_err(|error| format!("kubectl: {error}"))?;
                if count == 0 {
                    return out.flush().map(|()| written).map_err(|error| cannot_write(&error));
                }
                written += count as u64;
                if written > LIMIT {
                    return Err(format!("it sent more than {} MiB, and was stopped", LIMIT >> 20));
                }
                out.write_all(&part[..count]).map_err(|error| cannot_write(&error))?;
                progress.show(&format!("capturing {node}: {:.1} MB", written as f64 / 1e6));
            }
        };
        let (written, ()) = tokio::try_join!(copy, async {
            read_stderr.await;
            Ok(())
        })?;
        Ok::<_, String>((written, process.wait().await?))
    };
    let done = timeout(deadline, all).await;
    drop(progress);
    let (written, status) = match done {
        Err(_) => return Err(failed(format!("{}; {NOT_TO_BE_USED}", timed_out(deadline, &stderr)))),
        Ok(done) => done.map_err(|error| failed(format!("{error}; {NOT_TO_BE_USED}")))?,
    };
    match explain::status(status, &stderr) {
        Ok(ended) => {
            // The exporter's summary.
            explain::messages(&stderr).iter().for_each(|message| print_error(message));
            if ended == Ended::Complete { Ok(()) } else { Err(Failure::Partial) }
        }
        Err(error) if written == 0 => Err(failed(error)),
        Err(error) => Err(failed(format!("{error}; {NOT_TO_BE_USED}"))),
    }
}

fn cannot_write(error: &std::io::Error) -> String {
    format!("cannot write to standard output: {error}")
}
