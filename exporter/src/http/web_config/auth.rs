//! Basic authentication. A check by bcrypt takes some 50 ms on purpose: a thread of its own makes them one by one, in
//! the order of [`Queue`], and what came of it is remembered. So Prometheus is not checked with every scrape, what was
//! refused costs nothing when it comes again, and a password that is new does not wait behind those of strangers.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::{hmac, rand};
use tokio::sync::oneshot;

use super::queue::{Asker, Queue};
use crate::lock;

/// How long a check may wait.
const CHECK_TIMEOUT: Duration = Duration::from_secs(10);
/// Credentials that passed, and that were refused, and are remembered.
const PASSED: usize = 100;
const REFUSED: usize = 1024;

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

/// Whose password is to be checked, and how.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules<'r> {
    /// The user's hash; none for one who is not known.
    pub hash: Option<&'r str>,
    /// The cost of the costliest hash of all users: as much work is every refusal.
    pub highest_cost: u32,
}

type Tag = [u8; 32];

struct Check {
    tag: Tag,
    hash: Option<String>,
    highest_cost: u32,
    password: Vec<u8>,
    answer: oneshot::Sender<bool>,
}

impl Check {
    /// Whether the password passes. When it does not, it took the work of the costliest hash, whoever the user is and
    /// whether there is one: else the time of a refusal would say who is known. (Were users who are not known checked
    /// at a cost drawn by their name, each restart would draw again, and those who are known would be the ones whose
    /// time stays.) One that passes owes nobody that: its answer says as much.
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

/// The costs of checks that make up for a check of `cost`, or for none: each step of a cost doubles the work, so that
/// 2^4, and 2^4 + 2^5 + ... + 2^9 besides, are 2^10.
fn padding(cost: Option<u32>, highest: u32) -> std::ops::Range<u32> {
    match cost {
        Some(cost) => cost..highest,
        None => highest..highest + 1,
    }
}

/// What the thread and those who ask share.
struct Shared {
    state: Mutex<State>,
    /// For the thread: there is a check.
    filled: Condvar,
    /// For the start: the thread waits.
    ready: Condvar,
}

struct State {
    queue: Queue<Check>,
    passed: VecDeque<Tag>,
    refused: VecDeque<Tag>,
    is_ready: bool,
}

/// Checks passwords, on a thread that is started once.
pub(super) struct Checker {
    shared: Arc<Shared>,
    /// Of this process alone: with it, what is remembered is no password.
    key: hmac::Key,
}

impl Checker {
    /// Starts the thread, and returns once it waits for work: from then on it needs no system call but futex, and
    /// memory. The seal closes everything else to it.
    pub(super) fn start() -> std::io::Result<Self> {
        let unrandom = |_| std::io::Error::other("the system gives no random numbers");
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &rand::SystemRandom::new()).map_err(unrandom)?;
        let state = State {
            queue: Queue::new(),
            passed: VecDeque::with_capacity(PASSED),
            refused: VecDeque::with_capacity(REFUSED),
            is_ready: false,
        };
        let shared =
            Arc::new(Shared { state: Mutex::new(state), filled: Condvar::new(), ready: Condvar::new() });
        let of_thread = Arc::clone(&shared);
        std::thread::Builder::new().name("passwords".into()).spawn(move || {
            // Memory of a thread's own is set up with its first allocation.
            drop(std::hint::black_box(Box::new([1u8; 64])));
            of_thread.run()
        })?;
        let mut state = lock(&shared.state);
        while !state.is_ready {
            state = shared.ready.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        drop(state);
        Ok(Self { shared, key })
    }

    /// Checks a password.
    pub(super) async fn check(&self, credentials: Credentials, rules: Rules<'_>, client: Asker) -> Verdict {
        let tag = self.tag(&credentials, rules.hash);
        let (answer, answered) = oneshot::channel();
        {
            let mut state = lock(&self.shared.state);
            if state.passed.contains(&tag) {
                return Verdict::Passed;
            }
            if state.refused.contains(&tag) {
                return Verdict::Refused;
            }
            state.queue.retain(|check| !check.answer.is_closed());
            // One check of a connection at a time; what is the same is answered by the same.
            if state.queue.of(&client).any(|check| check.tag != tag) {
                return Verdict::Busy;
            }
            let check = Check {
                tag,
                hash: rules.hash.map(str::to_owned),
                highest_cost: rules.highest_cost,
                password: credentials.password,
                answer,
            };
            // Who has no place learns it by the end of the channel.
            drop(state.queue.push(client, check, Instant::now()));
        }
        self.shared.filled.notify_one();
        match tokio::time::timeout(CHECK_TIMEOUT, answered).await {
            Ok(Ok(true)) => Verdict::Passed,
            Ok(Ok(false)) => Verdict::Refused,
            _ => Verdict::Busy,
        }
    }

    /// What stands for credentials, and for the hash that they were checked against: another hash is another tag.
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
            // Who gave up is not worked for.
            if check.answer.is_closed() {
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
    /// Remembers what came of a check, and answers all who wait for the same.
    fn finish(&mut self, client: Asker, check: Check, passed: bool) {
        let (memory, size) = if passed { (&mut self.passed, PASSED) } else { (&mut self.refused, REFUSED) };
        memory.truncate(size - 1);
        memory.push_front(check.tag);
        if !passed {
            self.queue.refuse(client, Instant::now());
        }
        for same in self.queue.take(|other| other.tag == check.tag) {
            let _ = same.answer.send(passed);
        }
        let _ = check.answer.send(passed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// "secret", at the lowest cost.
    const HASH: &str = "$2b$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW";

    const KNOWN: Rules<'_> = Rules { hash: Some(HASH), highest_cost: 4 };
    const UNKNOWN: Rules<'_> = Rules { hash: None, highest_cost: 4 };

    fn credentials(password: &str) -> Credentials {
        Credentials { user: "a".into(), password: password.into() }
    }

    fn client(address: u8, port: u16) -> Asker {
        Asker::new(Some(([192, 0, 2, address], port).into()))
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
            assert_eq!(checker.check(credentials("secret"), KNOWN, client(1, 1)).await, Verdict::Passed);
            assert_eq!(checker.check(credentials("secret"), UNKNOWN, client(1, 1)).await, Verdict::Refused);
            assert_eq!(checker.check(credentials("other"), KNOWN, client(1, 1)).await, Verdict::Refused);
        }
        let state = lock(&checker.shared.state);
        assert_eq!((state.passed.len(), state.refused.len()), (1, 2));
    }

    #[tokio::test]
    async fn what_was_refused_is_not_checked_again_until_the_hash_is_another() {
        let checker = Checker::start().unwrap();
        let other = HASH.replace("rW", "rX");
        let wrong = Rules { hash: Some(&other), ..KNOWN };
        assert_eq!(checker.check(credentials("secret"), wrong, client(1, 1)).await, Verdict::Refused);
        let slow = Rules { highest_cost: 16, ..wrong };
        let start = Instant::now();
        assert_eq!(checker.check(credentials("secret"), slow, client(1, 1)).await, Verdict::Refused);
        assert!(start.elapsed() < Duration::from_millis(200), "{:?}", start.elapsed());
        assert_eq!(checker.check(credentials("secret"), KNOWN, client(1, 1)).await, Verdict::Passed);
    }

    #[test]
    fn memory_of_refusals_has_an_end() {
        let mut state =
            State { queue: Queue::new(), passed: VecDeque::new(), refused: VecDeque::new(), is_ready: true };
        for number in 0..3000u32 {
            let mut tag = Tag::default();
            tag[..4].copy_from_slice(&number.to_be_bytes());
            let (answer, _) = oneshot::channel();
            let check = Check { tag, hash: None, highest_cost: 4, password: Vec::new(), answer };
            state.finish(client(1, 1), check, number % 2 == 0);
        }
        assert_eq!((state.passed.len(), state.refused.len()), (PASSED, REFUSED));
    }

    #[test]
    fn a_refusal_is_as_much_work_whoever_the_user_is() {
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
    fn a_refusal_takes_as_long_whoever_the_user_is() {
        let took = |hash: Option<&str>| {
            let (answer, _waits) = oneshot::channel();
            let hash = hash.map(str::to_owned);
            let check =
                Check { tag: Tag::default(), hash, highest_cost: 7, password: b"wrong".to_vec(), answer };
            let start = Instant::now();
            assert!(!check.run());
            start.elapsed().as_secs_f64()
        };
        let costly_hash = HASH.replace("$04$", "$07$");
        let mut least = [f64::MAX; 3];
        // One after the other, so that what else runs on the machine slows all of them.
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

    /// A checker that strangers of one address keep busy: each asks again as soon as it is refused, with another
    /// password.
    fn besieged(checker: &Arc<Checker>, address: u8, strangers: u16) -> tokio::task::JoinSet<()> {
        let mut tasks = tokio::task::JoinSet::new();
        for port in 0..strangers {
            let checker = Arc::clone(checker);
            tasks.spawn(async move {
                for number in 0u64.. {
                    let wrong = credentials(&format!("{port} {number}"));
                    let slow = Rules { hash: Some(HASH), highest_cost: 5 };
                    assert_ne!(checker.check(wrong, slow, client(address, port)).await, Verdict::Passed);
                }
            });
        }
        tasks
    }

    #[tokio::test]
    async fn a_new_password_gets_in_from_another_address_and_from_the_strangers_own() {
        let checker = Arc::new(Checker::start().unwrap());
        let _strangers = besieged(&checker, 1, 60);
        // Until each was refused once.
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
    async fn a_connection_has_one_check_at_a_time_and_the_same_is_answered_together() {
        let checker = Checker::start().unwrap();
        let slow = Rules { hash: None, highest_cost: 8 };
        let check = |password: &str, port| checker.check(credentials(password), slow, client(1, port));
        let (busy, one, two, other) =
            tokio::join!(check("busy", 9), check("x", 1), check("x", 1), check("y", 1));
        assert_eq!((busy, one, two), (Verdict::Refused, Verdict::Refused, Verdict::Refused));
        assert_eq!(other, Verdict::Busy);
        assert_eq!(lock(&checker.shared.state).refused.len(), 2, "x was checked once");
    }

    #[tokio::test]
    async fn strangers_in_a_queue_do_not_hold_up_who_passed_before() {
        let checker = Arc::new(Checker::start().unwrap());
        assert_eq!(checker.check(credentials("secret"), KNOWN, client(1, 1000)).await, Verdict::Passed);
        let _strangers = besieged(&checker, 1, 100);
        tokio::time::sleep(Duration::from_millis(100)).await;
        let start = Instant::now();
        assert_eq!(checker.check(credentials("secret"), KNOWN, client(1, 1000)).await, Verdict::Passed);
        assert!(start.elapsed() < Duration::from_millis(200), "{:?}", start.elapsed());
    }
}
