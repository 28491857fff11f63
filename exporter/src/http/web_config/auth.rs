//! Basic authentication: passwords are compared with bcrypt hashes, and results are cached.
//!
//! A bcrypt check takes about 50 ms by design. A separate thread does the checks one after the other, in the order of
//! [`Queue`], and results are cached. So Prometheus' password is not checked for every scrape, a repeated wrong password
//! costs nothing, and a new password does not wait behind those of attackers.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::{hmac, rand};
use tokio::sync::oneshot;

use super::queue::{ClientConnection, Queue};
use crate::lock;

/// How long a request waits for its check.
const CHECK_TIMEOUT: Duration = Duration::from_secs(10);
/// The most credentials that are cached: accepted and refused ones.
const MAX_PASSED: usize = 100;
const MAX_REFUSED: usize = 1024;

/// The credentials of a request.
pub(super) struct Credentials {
    pub user: String,
    pub password: Vec<u8>,
}

impl Credentials {
    /// Parses an `Authorization` header; none if it has another scheme or is malformed.
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

/// The result of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Passed,
    Refused,
    /// Too many checks are waiting.
    Busy,
}

/// The hash to check a password against.
#[derive(Debug, Clone, Copy)]
pub(super) struct UserHash<'r> {
    /// The user's hash; none for an unknown user.
    pub hash: Option<&'r str>,
    /// The highest cost of all users' hashes: every refusal does this much work.
    pub highest_cost: u32,
}

type Tag = [u8; 32];

struct Check {
    tag: Tag,
    hash: Option<String>,
    highest_cost: u32,
    password: Vec<u8>,
    result: oneshot::Sender<bool>,
}

impl Check {
    /// Whether the password matches. A refusal always does the work of the costliest hash, whether the user exists or
    /// not: otherwise its duration would reveal which users exist. (A random cost for each unknown user name would not
    /// do: it would change with every restart, and that of existing users would not.) A match reveals that anyway.
    fn run(&self) -> bool {
        let passed =
            self.hash.as_ref().is_some_and(|hash| bcrypt::verify(&self.password, hash).unwrap_or(false));
        if !passed {
            for cost in padding(self.hash.as_deref().map(cost), self.highest_cost) {
                drop(std::hint::black_box(bcrypt::hash_with_salt(&self.password, cost, [0; 16])));
            }
        }
        passed
    }
}

/// The cost of a hash, such as 10 of `$2b$10$...`.
pub(super) fn cost(hash: &str) -> u32 {
    hash.split('$').nth(2).and_then(|cost| cost.parse().ok()).unwrap_or_default()
}

/// The costs of further checks that make the total work that of `highest`: each step of a cost doubles the work, so
/// 2^4 + (2^4 + 2^5 + ... + 2^9) = 2^10.
fn padding(cost: Option<u32>, highest: u32) -> std::ops::Range<u32> {
    match cost {
        Some(cost) => cost..highest,
        None => highest..highest + 1,
    }
}

/// State shared by the thread and the requests.
struct Shared {
    state: Mutex<State>,
    /// Wakes the thread when a check waits.
    filled: Condvar,
    /// Signals that the thread is ready.
    ready: Condvar,
}

struct State {
    queue: Queue<Check>,
    passed: VecDeque<Tag>,
    refused: VecDeque<Tag>,
    is_ready: bool,
}

/// Checks passwords on a separate thread.
pub(super) struct PasswordChecker {
    shared: Arc<Shared>,
    /// A random key of this process, so that the cache holds no passwords.
    key: hmac::Key,
}

impl PasswordChecker {
    /// Starts the thread and returns when it waits for work. From then on it needs only futex and memory, which is all
    /// that the sandbox leaves it.
    pub(super) fn start() -> std::io::Result<Self> {
        let no_random = |_| std::io::Error::other("the system returns no random numbers");
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &rand::SystemRandom::new()).map_err(no_random)?;
        let state = State {
            queue: Queue::new(),
            passed: VecDeque::with_capacity(MAX_PASSED),
            refused: VecDeque::with_capacity(MAX_REFUSED),
            is_ready: false,
        };
        let shared =
            Arc::new(Shared { state: Mutex::new(state), filled: Condvar::new(), ready: Condvar::new() });
        let thread_shared = Arc::clone(&shared);
        std::thread::Builder::new().name("passwords".into()).spawn(move || {
            // The allocator sets up the thread's memory with its first allocation.
            drop(std::hint::black_box(Box::new([1u8; 64])));
            thread_shared.run()
        })?;
        let mut state = lock(&shared.state);
        while !state.is_ready {
            state = shared.ready.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        drop(state);
        Ok(Self { shared, key })
    }

    /// Checks a password.
    pub(super) async fn check(
        &self,
        credentials: Credentials,
        user: UserHash<'_>,
        client: ClientConnection,
    ) -> Verdict {
        let tag = self.tag(&credentials, user.hash);
        let (result, received) = oneshot::channel();
        {
            let mut state = lock(&self.shared.state);
            if state.passed.contains(&tag) {
                return Verdict::Passed;
            }
            if state.refused.contains(&tag) {
                return Verdict::Refused;
            }
            state.queue.retain(|check| !check.result.is_closed());
            // One check at a time for each connection; equal credentials share a check.
            if state.queue.on_connection(&client).any(|check| check.tag != tag) {
                return Verdict::Busy;
            }
            let check = Check {
                tag,
                hash: user.hash.map(str::to_owned),
                highest_cost: user.highest_cost,
                password: credentials.password,
                result,
            };
            // A check that is rejected drops its sender, which ends the wait.
            drop(state.queue.push(client, check, Instant::now()));
        }
        self.shared.filled.notify_one();
        match tokio::time::timeout(CHECK_TIMEOUT, received).await {
            Ok(Ok(true)) => Verdict::Passed,
            Ok(Ok(false)) => Verdict::Refused,
            _ => Verdict::Busy,
        }
    }

    /// The cache key of credentials and the hash that they are checked against.
    fn tag(&self, credentials: &Credentials, hash: Option<&str>) -> Tag {
        let known = [u8::from(hash.is_some())];
        let hash = hash.unwrap_or_default();
        let parts: [&[u8]; 4] = [&known, credentials.user.as_bytes(), hash.as_bytes(), &credentials.password];
        let mut context = hmac::Context::with_key(&self.key);
        for part in parts {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        let mut tag = Tag::default();
        tag.copy_from_slice(context.sign().as_ref());
        tag
    }
}

impl Shared {
    fn run(&self) -> ! {
        let mut state = lock(&self.state);
        state.is_ready = true;
        self.ready.notify_one();
        loop {
            let Some((client, check)) = state.queue.pop(Instant::now()) else {
                state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            // The request was cancelled.
            if check.result.is_closed() {
                continue;
            }
            drop(state);
            let passed = check.run();
            state = lock(&self.state);
            state.finish(client, check, passed);
        }
    }
}

impl State {
    /// Caches the result of a check and sends it to all requests with the same credentials.
    fn finish(&mut self, client: ClientConnection, check: Check, passed: bool) {
        let (memory, size) =
            if passed { (&mut self.passed, MAX_PASSED) } else { (&mut self.refused, MAX_REFUSED) };
        memory.truncate(size - 1);
        memory.push_front(check.tag);
        if !passed {
            self.queue.refuse(client, Instant::now());
        }
        for same in self.queue.take_matching(|other| other.tag == check.tag) {
            let _ = same.result.send(passed);
        }
        let _ = check.result.send(passed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A hash of "secret", at the lowest cost.
    const HASH: &str = "$2b$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW";

    const KNOWN: UserHash<'_> = UserHash { hash: Some(HASH), highest_cost: 4 };
    const UNKNOWN: UserHash<'_> = UserHash { hash: None, highest_cost: 4 };

    fn credentials(password: &str) -> Credentials {
        Credentials { user: "a".into(), password: password.into() }
    }

    fn client(address: u8, port: u16) -> ClientConnection {
        ClientConnection::new(Some(([192, 0, 2, address], port).into()))
    }

    #[test]
    fn basic_credentials_are_parsed() {
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
    async fn a_password_is_accepted_only_for_its_user() {
        let checker = PasswordChecker::start().unwrap();
        for _ in 0..2 {
            assert_eq!(checker.check(credentials("secret"), KNOWN, client(1, 1)).await, Verdict::Passed);
            assert_eq!(checker.check(credentials("secret"), UNKNOWN, client(1, 1)).await, Verdict::Refused);
            assert_eq!(checker.check(credentials("other"), KNOWN, client(1, 1)).await, Verdict::Refused);
        }
        let state = lock(&checker.shared.state);
        assert_eq!((state.passed.len(), state.refused.len()), (1, 2));
    }

    #[tokio::test]
    async fn refused_credentials_are_not_checked_again_until_the_hash_changes() {
        let checker = PasswordChecker::start().unwrap();
        let other = HASH.replace("rW", "rX");
        let wrong = UserHash { hash: Some(&other), ..KNOWN };
        assert_eq!(checker.check(credentials("secret"), wrong, client(1, 1)).await, Verdict::Refused);
        let slow = UserHash { highest_cost: 16, ..wrong };
        let start = Instant::now();
        assert_eq!(checker.check(credentials("secret"), slow, client(1, 1)).await, Verdict::Refused);
        assert!(start.elapsed() < Duration::from_millis(200), "{:?}", start.elapsed());
        assert_eq!(checker.check(credentials("secret"), KNOWN, client(1, 1)).await, Verdict::Passed);
    }

    #[test]
    fn the_cache_is_bounded() {
        let mut state =
            State { queue: Queue::new(), passed: VecDeque::new(), refused: VecDeque::new(), is_ready: true };
        for number in 0..3000u32 {
            let mut tag = Tag::default();
            tag[..4].copy_from_slice(&number.to_be_bytes());
            let (result, _) = oneshot::channel();
            let check = Check { tag, hash: None, highest_cost: 4, password: Vec::new(), result };
            state.finish(client(1, 1), check, number % 2 == 0);
        }
        assert_eq!((state.passed.len(), state.refused.len()), (MAX_PASSED, MAX_REFUSED));
    }

    #[test]
    fn a_refusal_does_the_same_work_for_every_user() {
        for highest in 4..=16 {
            let work = |cost: Option<u32>| {
                let own = cost.map_or(0, |cost| 1u64 << cost);
                own + padding(cost, highest).map(|cost| 1u64 << cost).sum::<u64>()
            };
            assert_eq!(work(None), 1 << highest);
            (4..=highest).for_each(|cost| assert_eq!(work(Some(cost)), 1 << highest, "{cost} of {highest}"));
        }
        assert_eq!((cost(HASH), cost("$2y$12$x"), cost("")), (4, 12, 0));
    }

    #[test]
    fn a_refusal_takes_the_same_time_for_every_user() {
        let took = |hash: Option<&str>| {
            let (result, _waits) = oneshot::channel();
            let hash = hash.map(str::to_owned);
            let check =
                Check { tag: Tag::default(), hash, highest_cost: 7, password: b"wrong".to_vec(), result };
            let start = Instant::now();
            assert!(!check.run());
            start.elapsed().as_secs_f64()
        };
        let costly_hash = HASH.replace("$04$", "$07$");
        let mut least = [f64::MAX; 3];
        // In turn, so that other load on the machine slows all of them.
        for _ in 0..10 {
            for (least, hash) in least.iter_mut().zip([Some(HASH), Some(&*costly_hash), None]) {
                *least = least.min(took(hash));
            }
        }
        let [cheap, costly, unknown] = least;
        for (one, other) in [(cheap, costly), (cheap, unknown), (costly, unknown)] {
            assert!((0.5..2.0).contains(&(one / other)), "{cheap} {costly} {unknown}");
        }
    }

    /// Keeps a checker busy from one address: each connection retries with another password as soon as it is refused.
    fn under_attack(checker: &Arc<PasswordChecker>, address: u8, attackers: u16) -> tokio::task::JoinSet<()> {
        let mut tasks = tokio::task::JoinSet::new();
        for port in 0..attackers {
            let checker = Arc::clone(checker);
            tasks.spawn(async move {
                for number in 0u64.. {
                    let wrong = credentials(&format!("{port} {number}"));
                    let slow = UserHash { hash: Some(HASH), highest_cost: 5 };
                    assert_ne!(checker.check(wrong, slow, client(address, port)).await, Verdict::Passed);
                }
            });
        }
        tasks
    }

    #[tokio::test]
    async fn under_attack_a_new_password_is_accepted_from_another_address_and_from_the_attackers() {
        let checker = Arc::new(PasswordChecker::start().unwrap());
        let _attackers = under_attack(&checker, 1, 60);
        // Until each connection was refused at least once.
        while lock(&checker.shared.state).refused.len() < 150 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        for (user, client) in [("a", client(2, 1)), ("b", client(1, 1000))] {
            let start = Instant::now();
            let new = Credentials { user: user.into(), ..credentials("secret") };
            assert_eq!(checker.check(new, KNOWN, client).await, Verdict::Passed);
            assert!(start.elapsed() < Duration::from_secs(2), "{user}: {:?}", start.elapsed());
        }
    }

    #[tokio::test]
    async fn a_connection_has_one_check_at_a_time_and_equal_credentials_share_one() {
        let checker = PasswordChecker::start().unwrap();
        let slow = UserHash { hash: None, highest_cost: 8 };
        let check = |password: &str, port| checker.check(credentials(password), slow, client(1, port));
        let (busy, one, two, other) =
            tokio::join!(check("busy", 9), check("x", 1), check("x", 1), check("y", 1));
        assert_eq!((busy, one, two), (Verdict::Refused, Verdict::Refused, Verdict::Refused));
        assert_eq!(other, Verdict::Busy);
        assert_eq!(lock(&checker.shared.state).refused.len(), 2, "x was checked once");
    }

    #[tokio::test]
    async fn cached_credentials_do_not_wait_behind_attackers() {
        let checker = Arc::new(PasswordChecker::start().unwrap());
        assert_eq!(checker.check(credentials("secret"), KNOWN, client(1, 1000)).await, Verdict::Passed);
        let _attackers = under_attack(&checker, 1, 100);
        tokio::time::sleep(Duration::from_millis(100)).await;
        let start = Instant::now();
        assert_eq!(checker.check(credentials("secret"), KNOWN, client(1, 1000)).await, Verdict::Passed);
        assert!(start.elapsed() < Duration::from_millis(200), "{:?}", start.elapsed());
    }
}
