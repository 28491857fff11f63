//! What kubectl and the exporter print when something fails, as one line with what to do about it.

use crate::kubectl::Output;

/// The exporter's status for a part that is missing.
const PARTIAL: i32 = 3;

/// What kubectl prints on its last line if the command in the pod, and not kubectl, has failed.
const REMOTE_STATUS: &str = "command terminated with exit code ";

/// The texts of kubectl and of the API server that need advice. The first that matches counts.
#[rustfmt::skip]
const ADVICE: &[(&[&str], &str)] = &[
    (&["'keyhole-no-exec'"], "exec is refused by the policy keyhole-no-exec (component refuse-exec): use the metrics in Prometheus and kubectl logs instead"),
    (&["denied request"], "an admission policy refuses exec: ask a cluster admin"),
    (&["admission webhook"], "an admission webhook refuses exec: ask a cluster admin"),
    (&["is forbidden", "pods/exec"], "there is no right to exec: ask for the Role of docs/kubectl-plugin.md"),
    (&["is forbidden", "impersonate"], "there is no right to impersonate: remove --as"),
    (&["is forbidden"], "there is no right to get and list pods: ask for the Role of docs/kubectl-plugin.md"),
    (&["Unauthorized"], "the API server does not accept the credentials: log in again, or choose another --context"),
    (&["you must be logged in"], "the API server does not accept the credentials: log in again, or choose another --context"),
    (&["getting credentials"], "kubectl has no credentials: log in again, or choose another --context"),
    (&["certificate"], "kubectl does not trust the API server, or the reverse: check the kubeconfig"),
    (&["did you specify the right host or port"], "the API server cannot be reached: check --context and the network"),
    (&["Unable to connect to the server"], "the API server cannot be reached: check --context and the network"),
    (&["container not found"], "the pod's container exporter does not run: see kubectl describe pod"),
    (&["is not valid for pod"], "the pod has no container exporter: is it Keyhole's?"),
    (&["cannot exec into a container in a completed pod"], "the pod has ended: see kubectl describe pod"),
    (&["NotFound", "pods"], "the pod has been replaced meanwhile: try again"),
    (&["OCI runtime exec failed"], "the container cannot run /keyhole-exporter: is its image Keyhole's?"),
    (&["failed to exec in container"], "the container cannot run /keyhole-exporter: is its image Keyhole's?"),
    (&["error dialing backend"], "the API server cannot reach the node's kubelet: is the node up?"),
    (&["no preferred addresses found"], "the API server knows no address of the node: is the node up?"),
    (&["unable to upgrade connection"], "the API server or the kubelet refuses the connection"),
    (&["unknown flag"], "this kubectl is too old: use 1.28 or newer"),
    (&["connection reset"], "the connection was cut: try again"),
    (&["unexpected EOF"], "the connection was cut: try again"),
];

/// What a run of the exporter in a pod has come to.
#[derive(Debug, PartialEq, Eq)]
pub enum Ended {
    /// It did what it was asked for.
    Complete,
    /// A part is missing; the exporter's messages.
    Partial(Vec<String>),
}

/// Whether the exporter in a pod has succeeded. The error is one line.
pub fn ended(output: &Output) -> Result<Ended, String> {
    status(output.status, &output.stderr)
}

/// The same from an exit status and what was printed on standard error.
pub fn status(status: Option<i32>, stderr: &str) -> Result<Ended, String> {
    let from_pod = remote_status(stderr);
    match (status, from_pod) {
        (Some(0), _) => Ok(Ended::Complete),
        (Some(PARTIAL), Some(PARTIAL)) => Ok(Ended::Partial(messages(stderr))),
        (_, Some(code)) => Err(match messages(stderr).pop() {
            Some(message) => message,
            None => format!("/keyhole-exporter ended with status {code} and printed nothing"),
        }),
        (status, None) => Err(kubectl_error(status, stderr)),
    }
}

/// An error of kubectl itself, with advice.
pub fn kubectl_error(status: Option<i32>, stderr: &str) -> String {
    let Some(line) = last_line(stderr) else {
        return match status {
            Some(status) => format!("kubectl ended with status {status} and printed nothing"),
            None => "kubectl was killed".to_owned(),
        };
    };
    let is_about = |words: &[&str]| {
        words.iter().all(|word| line.to_ascii_lowercase().contains(&word.to_ascii_lowercase()))
    };
    match ADVICE.iter().find(|(words, _)| is_about(words)) {
        Some((_, advice)) => format!("{advice} ({line})"),
        None => format!("kubectl: {line}"),
    }
}

/// The status of the command in the pod.
fn remote_status(stderr: &str) -> Option<i32> {
    stderr.trim_end().lines().last()?.strip_prefix(REMOTE_STATUS)?.trim().parse().ok()
}

/// The exporter's messages, without its name.
pub fn messages(stderr: &str) -> Vec<String> {
    let lines = stderr.lines().filter(|line| !line.trim().is_empty() && !line.starts_with(REMOTE_STATUS));
    let bare = |line: &str| {
        let line = line.strip_prefix("keyhole-exporter: ").unwrap_or(line);
        shortened(line.strip_prefix("error: ").unwrap_or(line))
    };
    lines.map(bare).collect()
}

/// The last line that kubectl printed for people, without what each begins with.
pub fn last_line(stderr: &str) -> Option<String> {
    // A line of kubectl's log begins with a letter and the date: `E1128 07:52:01.513345 ...`.
    let is_log = |line: &str| {
        let mut letters = line.bytes();
        letters.next().is_some_and(|letter| b"EWIF".contains(&letter))
            && letters.take(4).filter(u8::is_ascii_digit).count() == 4
    };
    let lines = || stderr.lines().map(str::trim).filter(|line| !line.is_empty());
    let line = lines().rfind(|line| !is_log(line)).or_else(|| lines().next_back())?;
    Some(shortened(line.strip_prefix("error: ").unwrap_or(line)))
}

/// The most letters of a line that are shown.
const LINE: usize = 500;

/// A line with its first letters, if it is a long one.
pub fn shortened(line: &str) -> String {
    match line.char_indices().nth(LINE) {
        Some((at, _)) => format!("{}...", &line[..at]),
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What kubectl 1.36 prints, as seen with a real API server, and the beginning of what people read.
    const SEEN: &[(&str, &str)] = &[
        (
            "error: unable to upgrade connection: pods \"keyhole-cwj9h\" is forbidden: ValidatingAdmissionPolicy 'keyhole-no-exec' with binding 'keyhole-no-exec' denied request: no-exec: nobody runs anything in keyhole's pods; use their logs and metrics\n",
            "exec is refused by the policy keyhole-no-exec (component refuse-exec): use the metrics",
        ),
        (
            "error: unable to upgrade connection: pods \"keyhole-cwj9h\" is forbidden: User \"viewer\" cannot create resource \"pods/exec\" in API group \"\" in the namespace \"keyhole\"\n",
            "there is no right to exec: ask for the Role",
        ),
        (
            "Error from server (Forbidden): pods is forbidden: User \"nobody\" cannot list resource \"pods\" in API group \"\" in the namespace \"keyhole\"\n",
            "there is no right to get and list pods",
        ),
        (
            "Error from server (Forbidden): pods \"keyhole-cwj9h\" is forbidden: User \"nobody\" cannot get resource \"pods\" in API group \"\" in the namespace \"keyhole\"\n",
            "there is no right to get and list pods",
        ),
        (
            "error: unable to upgrade connection: no preferred addresses found; known addresses: []\n",
            "the API server knows no address of the node",
        ),
        (
            "Error from server (NotFound): pods \"nopod\" not found\n",
            "the pod has been replaced meanwhile: try again (Error from server",
        ),
        (
            "error: container exporter is not valid for pod keyhole-cwj9h out of: other, broker (init)\n",
            "the pod has no container exporter",
        ),
        ("error: context \"nocontext\" does not exist\n", "kubectl: context \"nocontext\" does not exist"),
        (
            "E1128 07:52:01.513345   25319 memcache.go:265] \"Unhandled Error\" err=\"...\"\nThe connection to the server 127.0.0.1:1 was refused - did you specify the right host or port?\n",
            "the API server cannot be reached: check --context and the network (The connection to the server 127.0.0.1:1",
        ),
        (
            "error: You must be logged in to the server (Unauthorized)\n",
            "the API server does not accept the credentials",
        ),
        ("Unable to connect to the server: context deadline exceeded\n", "the API server cannot be reached"),
        (
            "error: stat /nonexistent: no such file or directory\n",
            "kubectl: stat /nonexistent: no such file or directory",
        ),
        ("E1128 07:52:01.5 1 x.go:1] only a log\n", "kubectl: E1128"),
        ("", "kubectl ended with status 1 and printed nothing"),
    ];

    #[test]
    fn errors_of_kubectl_are_one_line_with_what_to_do() {
        for (stderr, beginning) in SEEN {
            let error = status(Some(1), stderr).unwrap_err();
            assert!(error.starts_with(beginning), "{stderr}: {error}");
            assert!(!error.contains('\n'), "{error}");
        }
        assert_eq!(status(None, "").unwrap_err(), "kubectl was killed");
    }

    #[test]
    fn the_status_of_the_exporter_is_not_mistaken_for_kubectls() {
        assert_eq!(status(Some(0), "noise\n"), Ok(Ended::Complete));
        let partial = "keyhole-exporter: netdev: not permitted\ncommand terminated with exit code 3\n";
        assert_eq!(status(Some(3), partial), Ok(Ended::Partial(vec!["netdev: not permitted".into()])));
        let failed =
            "keyhole-exporter: error: cannot reach the broker\ncommand terminated with exit code 1\n";
        assert_eq!(status(Some(1), failed), Err("cannot reach the broker".into()));
        assert_eq!(
            status(Some(137), "command terminated with exit code 137\n"),
            Err("/keyhole-exporter ended with status 137 and printed nothing".into())
        );
        // kubectl's own status 3 would be no partial success.
        assert!(status(Some(3), "error: other\n").is_err());
    }

    #[test]
    fn a_line_without_end_is_cut() {
        let error = status(Some(1), &"x".repeat(100_000)).unwrap_err();
        assert!(error.len() < 600, "{}", error.len());
    }
}
