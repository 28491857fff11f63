//! Advice for a user who may not connect to the broker's socket.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::path::Path;

use rustix::fs::FileType;

/// The uid of this process and the owner of the socket, determined before the sandbox, for the advice of errors.
#[derive(Debug, Clone)]
pub(super) struct SocketAccess {
    uid: u32,
    /// The owner and the group of the socket, or of its directory if the socket cannot be seen.
    owner: Option<(u32, u32)>,
    /// The command line of this program, quoted for a shell.
    pub(super) command: String,
    /// Whether every user can execute this program.
    is_public: bool,
    /// Whether there is something at the path that is no socket.
    is_no_socket: bool,
}

impl SocketAccess {
    pub(super) fn detect(socket: &str) -> Self {
        let stat = |path: &Path| rustix::fs::stat(path).ok();
        let socket = Path::new(socket);
        let there = stat(socket);
        let is_no_socket =
            there.is_some_and(|stat| FileType::from_raw_mode(stat.st_mode) != FileType::Socket);
        let owner = there.or_else(|| stat(socket.parent()?));
        let program = std::env::current_exe().unwrap_or_default();
        let is_public =
            program.ancestors().all(|path| stat(path).is_none_or(|stat| stat.st_mode & 0o001 != 0));
        Self {
            uid: rustix::process::geteuid().as_raw(),
            owner: owner.map(|stat| (stat.st_uid, stat.st_gid)),
            command: "keyhole-exporter ...".to_owned(),
            is_public,
            is_no_socket,
        }
    }

    /// Advice to run the command as the socket's owner: the broker always accepts its own uid.
    fn as_owner(&self) -> String {
        let Self { owner: Some((uid, gid)), command, .. } = self else {
            return "run this as the broker's user".to_owned();
        };
        let copy_hint = if self.is_public {
            ""
        } else {
            " (after copying the program to where this user can execute it, such as /usr/local/bin)"
        };
        format!(
            "run this as the broker's user, uid {uid}; as root: `setpriv --reuid={uid} --regid={gid} --clear-groups {command}`{copy_hint}"
        )
    }

    /// Advice to run the command as root itself. `capture` keeps root's capabilities, which override file modes; other
    /// commands need the group.
    fn as_root(&self) -> String {
        let with = match self.owner {
            Some((_, gid)) => format!(": `setpriv --regid={gid} --clear-groups {}`", self.command),
            None => String::new(),
        };
        format!("or start the broker with --allow-uid=0 and run this as root in the socket's group{with}")
    }

    /// Advice for a system error, which may mean that this uid may not connect.
    pub(super) fn advice(&self, kind: Option<ErrorKind>) -> String {
        if self.is_no_socket {
            return ": this is no socket: set --broker.socket to the broker's --socket.path".to_owned();
        }
        let (uid, as_owner) = (self.uid, self.as_owner());
        let group = self.owner.map(|(_, gid)| format!(" (gid {gid})")).unwrap_or_default();
        match kind {
            Some(ErrorKind::NotFound) => {
                ": start the broker, or set --broker.socket to its --socket.path".into()
            }
            Some(ErrorKind::ConnectionRefused) => {
                ": no broker listens on this socket any more: start it".into()
            }
            Some(ErrorKind::PermissionDenied) if uid == 0 => format!(
                ": this program drops root's capabilities before it connects, so the modes of the socket and its \
                 directory hold for root too, whatever --allow-uid names: {as_owner}; {}",
                self.as_root()
            ),
            Some(ErrorKind::PermissionDenied) => format!(
                ": uid {uid} may not connect to this socket: {as_owner}; or add uid {uid} to the socket's group{group} and \
                 to the broker's --allow-uid"
            ),
            _ if self.owner.is_some_and(|(owner, _)| owner == uid) => String::new(),
            _ => {
                let or = match uid {
                    0 => self.as_root(),
                    _ => format!("or start the broker with --allow-uid={uid}"),
                };
                format!(
                    ": the broker closes connections of uids other than its own and those of its --allow-uid, and \
                     those of a uid that has too many; if uid {uid} is not allowed: {as_owner}; {or}"
                )
            }
        }
    }
}

/// A command line, quoted for a shell where needed.
pub(super) fn shell_words(words: impl Iterator<Item = OsString>) -> String {
    let quoted = |word: OsString| {
        let word = word.to_string_lossy();
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "_@%+=:,./-".contains(c);
        if !word.is_empty() && word.chars().all(is_plain) {
            word.into_owned()
        } else {
            format!("'{}'", word.replace('\'', r"'\''"))
        }
    };
    words.map(quoted).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_that_may_mean_a_refusal_lists_who_may_connect_and_how() {
        let access = |uid, owner| SocketAccess {
            uid,
            owner,
            command: "./keyhole-exporter query stat".into(),
            is_public: true,
            is_no_socket: false,
        };
        let owner = Some((64646, 64640));
        let command = "`setpriv --reuid=64646 --regid=64640 --clear-groups ./keyhole-exporter query stat`";
        for (uid, kind, words) in [
            (0, Some(ErrorKind::BrokenPipe), "or start the broker with --allow-uid=0"),
            (0, Some(ErrorKind::PermissionDenied), "hold for root too, whatever --allow-uid names"),
            (1000, Some(ErrorKind::PermissionDenied), "add uid 1000 to the socket's group (gid 64640)"),
            // HTTP/2 reports a closed connection without a system error.
            (1000, None, "or start the broker with --allow-uid=1000"),
            (1000, Some(ErrorKind::ConnectionReset), "those of its --allow-uid"),
        ] {
            let advice = access(uid, owner).advice(kind);
            assert!(advice.contains(words) && advice.contains(command), "{uid} {kind:?}: {advice}");
            assert!(advice.contains("the broker's user, uid 64646"), "{advice}");
            // The same for commands that drop root's capabilities and for the one that does not.
            let as_root = "start the broker with --allow-uid=0 and run this as root in the socket's group: \
                `setpriv --regid=64640 --clear-groups ./keyhole-exporter query stat`";
            assert_eq!(advice.contains(as_root), uid == 0, "{advice}");
        }
        assert_eq!(access(64646, owner).advice(Some(ErrorKind::BrokenPipe)), "", "it may connect");
        let unseen = access(1000, None).advice(Some(ErrorKind::PermissionDenied));
        assert!(unseen.contains("run this as the broker's user;") && !unseen.contains("gid"), "{unseen}");
        let private =
            SocketAccess { is_public: false, ..access(0, owner) }.advice(Some(ErrorKind::PermissionDenied));
        assert!(private.contains("after copying the program"), "{private}");
    }

    #[test]
    fn a_command_line_is_quoted_for_a_shell() {
        let words =
            ["/usr/bin/keyhole-exporter", "--broker.socket=/a b", "query", "it's", "", "a;b", "-o=json"];
        assert_eq!(
            shell_words(words.into_iter().map(OsString::from)),
            r"/usr/bin/keyhole-exporter '--broker.socket=/a b' query 'it'\''s' '' 'a;b' -o=json"
        );
    }
}
