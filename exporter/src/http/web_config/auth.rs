//! Basic authentication. A check by bcrypt takes some 50 ms on purpose: a thread of its own makes them one by one, and
//! what passed is remembered, so that Prometheus is not checked with every scrape and never waits behind strangers.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::{hmac, rand};
use tokio::sync::oneshot;

use crate::lock;

/// Checks that may wait.
const WAITING: usize = 32;
/// How long one may wait.
const PATIENCE: Duration = Duration::from_secs(10);
/// Credentials that are remembered.
const REMEMBERED: usize = 100;

/// What a client says of itself.
pub(super) struct Credentials {
    pub user: String,
    pub password: Vec<u8>,
}

impl Credentials {
    /// Reads an `Authorization` header; none when it is of another scheme or not well-formed.
    pub(super) fn parse(header: &[u8]) -> Option<Self> {
        let header = std::str::from_utf8(header).ok()?;
        let (scheme, encoded) = header.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("basic") {
            return None;
        }
        let decoded = STANDARD.decode(encoded.trim()).ok()?;
        let colon = decoded.iter().position(|byte| *byte == b':')?;
        let user = String::from_utf8(decoded[..colon].to_vec()).ok()?;
        Some(Self { user, password: decoded[colon + 1..].to_vec() })
    }
}

/// What came of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Passed,
    Refused,
    /// Too many wait already.
    Busy,
}

struct Job {
    hash: String,
    password: Vec<u8>,
    answer: oneshot::Sender<bool>,
}

/// Checks passwords, on a thread that is started once.
pub(super) struct Checker {
    jobs: SyncSender<Job>,
    /// Of this process alone: with it, what is remembered is no password.
    key: hmac::Key,
    passed: Mutex<VecDeque<Vec<u8>>>,
}

impl Checker {
    /// Starts the thread, and returns once it waits for work: from then on it needs no system call but futex, and
    /// memory. The seal closes everything else to it.
    pub(super) fn start() -> std::io::Result<Self> {
        let (jobs, work) = sync_channel(WAITING);
        let (ready, started) = sync_channel(1);
        std::thread::Builder::new().name("passwords".into()).spawn(move || {
            // Memory of a thread's own is set up with its first allocation.
            drop(std::hint::black_box(Box::new([1u8; 64])));
            let _ = ready.send(());
            check(&work);
            // Its end would need system calls that nothing else needs; it ends with the process.
            loop {
                std::thread::park();
            }
        })?;
        started.recv().map_err(|_| std::io::Error::other("the thread that checks passwords ended"))?;
        let unrandom = |_| std::io::Error::other("the system gives no random numbers");
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &rand::SystemRandom::new()).map_err(unrandom)?;
        Ok(Self { jobs, key, passed: Mutex::default() })
    }

    /// Checks a password against a hash. `known` is whether the user has that hash: who has none is checked against
    /// another's, so that the time tells nothing, and refused.
    pub(super) async fn check(&self, credentials: Credentials, hash: &str, known: bool) -> Verdict {
        let Credentials { user, password } = credentials;
        let parts: [&[u8]; 3] = [user.as_bytes(), hash.as_bytes(), &password];
        let mut context = hmac::Context::with_key(&self.key);
        for part in parts {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        let tag = context.sign().as_ref().to_vec();
        if known && lock(&self.passed).contains(&tag) {
            return Verdict::Passed;
        }
        let (answer, answered) = oneshot::channel();
        if self.jobs.try_send(Job { hash: hash.to_owned(), password, answer }).is_err() {
            return Verdict::Busy;
        }
        match tokio::time::timeout(PATIENCE, answered).await {
            Ok(Ok(true)) if known => {
                let mut passed = lock(&self.passed);
                passed.truncate(REMEMBERED - 1);
                passed.push_front(tag);
                Verdict::Passed
            }
            Ok(Ok(_)) => Verdict::Refused,
            _ => Verdict::Busy,
        }
    }
}

fn check(work: &Receiver<Job>) {
    while let Ok(job) = work.recv() {
        // Who gave up is not worked for.
        if !job.answer.is_closed() {
            let _ = job.answer.send(bcrypt::verify(&job.password, &job.hash).unwrap_or(false));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// "secret", at the lowest cost.
    const HASH: &str = "$2b$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW";

    fn credentials(password: &str) -> Credentials {
        Credentials { user: "a".into(), password: password.into() }
    }

    #[test]
    fn credentials_are_read_as_they_are_sent() {
        let parsed = |header: &str| {
            Credentials::parse(header.as_bytes())
                .map(|c| (c.user, String::from_utf8_lossy(&c.password).into_owned()))
        };
        let taken = Some(("a".to_owned(), "b:c".to_owned()));
        assert_eq!(parsed("Basic YTpiOmM="), taken);
        assert_eq!(parsed("basic  YTpiOmM= "), taken);
        for header in ["", "Basic", "Basic ", "Basic !", "Bearer YTpiOmM=", "Basic YQ==", "Basic /zph"] {
            assert_eq!(parsed(header), None, "{header}");
        }
    }

    #[tokio::test]
    async fn a_password_passes_by_its_hash_and_only_for_who_has_it() {
        let checker = Checker::start().unwrap();
        for _ in 0..2 {
            assert_eq!(checker.check(credentials("secret"), HASH, true).await, Verdict::Passed);
            assert_eq!(checker.check(credentials("secret"), HASH, false).await, Verdict::Refused);
            assert_eq!(checker.check(credentials("other"), HASH, true).await, Verdict::Refused);
        }
        assert_eq!(checker.passed.lock().unwrap().len(), 1, "what is refused is not remembered");
    }

    #[tokio::test]
    async fn strangers_in_a_queue_do_not_hold_up_who_passed_before() {
        let checker = Checker::start().unwrap();
        assert_eq!(checker.check(credentials("secret"), HASH, true).await, Verdict::Passed);
        let slow = HASH.replace("$04$", "$12$");
        let strangers = async {
            let checks = (0..WAITING + 8).map(|n| checker.check(credentials(&n.to_string()), &slow, true));
            let mut pending: Vec<_> = checks.map(Box::pin).collect();
            // Each is begun, and none is waited for.
            let mut busy = 0;
            for check in &mut pending {
                let poll = std::future::poll_fn(|cx| std::task::Poll::Ready(check.as_mut().poll(cx))).await;
                busy += usize::from(poll == std::task::Poll::Ready(Verdict::Busy));
            }
            let start = std::time::Instant::now();
            assert_eq!(checker.check(credentials("secret"), HASH, true).await, Verdict::Passed);
            (busy, start.elapsed())
        };
        let (busy, took) = strangers.await;
        assert!(busy >= 6, "the queue has an end: {busy}");
        assert!(took < Duration::from_millis(200), "{took:?}");
    }
}
