//! What a flood costs: the broker and its readers, by the kernel's own account, and its other clients.

use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use keyhole_proto::v1::Query;
use keyhole_proto::v1::broker_client::BrokerClient;
use keyhole_test_support::client::{read, try_channel};
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

/// Clock ticks a second in /proc/<pid>/stat, on every architecture that this runs on.
const TICKS: u64 = 100;

/// How often a neighbour asks.
const INTERVAL: Duration = Duration::from_millis(150);

/// What the broker and the processes that it started use.
pub(crate) struct Load {
    pid: u32,
    /// Of the broker alone.
    pub(crate) peak_kib: u64,
    /// Of the largest of the others: what they share with each other would count several times in a sum.
    pub(crate) reader_peak_kib: u64,
    /// Of all of them.
    pub(crate) cpu: Duration,
    /// Of all of them.
    pub(crate) descriptors: usize,
}

/// What one process uses.
struct Share {
    peak_kib: u64,
    ticks: u64,
    descriptors: usize,
}

impl Share {
    /// Nothing when the process has ended.
    fn of(pid: u32) -> Option<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // Its own, and that of children that it has waited for: a reader that was replaced counts on.
        let fields = stat.rsplit_once(") ")?.1.split(' ').skip(11).take(4);
        Some(Self {
            peak_kib: peak.trim().trim_end_matches(" kB").parse().unwrap(),
            ticks: fields.map(|ticks| ticks.parse::<u64>().unwrap()).sum(),
            descriptors: fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count(),
        })
    }
}

/// The processes that a process started, and that those started.
fn descendants(pid: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let children = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    let children: Vec<u32> = children
        .flat_map(|line| line.split(' ').filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect();
    let below = children.iter().flat_map(|child| descendants(*child));
    below.chain(children.iter().copied()).collect()
}

impl Load {
    pub(crate) fn of(pid: u32) -> Self {
        let broker = Share::of(pid).expect("the broker lives");
        let others: Vec<Share> = descendants(pid).into_iter().filter_map(Share::of).collect();
        let ticks = broker.ticks + others.iter().map(|of| of.ticks).sum::<u64>();
        Self {
            pid,
            peak_kib: broker.peak_kib,
            reader_peak_kib: others.iter().map(|of| of.peak_kib).max().expect("a broker has readers"),
            cpu: Duration::from_millis(1000 / TICKS * ticks),
            descriptors: broker.descriptors + others.iter().map(|of| of.descriptors).sum::<usize>(),
        }
    }

    /// Makes the kernel's peaks begin again.
    pub(crate) fn forget_peaks(&self) {
        for pid in [vec![self.pid], descendants(self.pid)].concat() {
            // A reader that has ended meanwhile has no peak.
            let forgotten = fs::write(format!("/proc/{pid}/clear_refs"), "5");
            assert!(forgotten.is_ok() || pid != self.pid, "{forgotten:?}");
        }
    }

    /// Waits until there are no more descriptors than `before`, or long enough; returns how many there are.
    pub(crate) fn settled(&self, before: usize) -> usize {
        let deadline = Instant::now() + Duration::from_secs(8);
        loop {
            let now = Self::of(self.pid).descriptors;
            if now <= before || Instant::now() > deadline {
                return now;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// A client that behaves.
pub(crate) struct Neighbour {
    pub(crate) name: &'static str,
    asked: AtomicU64,
    worst: Mutex<Duration>,
    errors: Mutex<Vec<String>>,
}

impl Neighbour {
    pub(crate) fn new(name: &'static str) -> Self {
        Self { name, asked: AtomicU64::new(0), worst: Mutex::default(), errors: Mutex::default() }
    }

    /// Waits until it has asked twice in peace, and forgets what was.
    pub(crate) fn settle(&self) {
        let (since, deadline) =
            (self.asked.load(Ordering::Relaxed), Instant::now() + Duration::from_secs(20));
        while self.asked.load(Ordering::Relaxed) < since + 2 {
            assert!(Instant::now() < deadline, "{} is not answered in peace: {:?}", self.name, self.errors());
            std::thread::sleep(Duration::from_millis(10));
        }
        self.worst();
        self.errors();
    }

    /// The longest that it waited since it was asked last.
    pub(crate) fn worst(&self) -> Duration {
        std::mem::take(&mut *self.worst.lock().unwrap())
    }

    /// What else went wrong since.
    pub(crate) fn errors(&self) -> Vec<String> {
        std::mem::take(&mut *self.errors.lock().unwrap())
    }

    fn note<T>(&self, what: &str, begun: Instant, answer: Result<T, String>) {
        let mut worst = self.worst.lock().unwrap();
        *worst = (*worst).max(begun.elapsed());
        if let Err(error) = answer {
            self.errors.lock().unwrap().push(format!("{}'s {what}: {error}", self.name));
        }
    }
}

/// Asks now and then until it is over: over a connection that stays, and as a probe does, over a new one.
///
/// A neighbour of the hostile uid shares its rate limit: to be limited is an answer then, and new connections are not tried.
pub(crate) fn ask_without_end(neighbour: &Neighbour, socket: &Path, over: &AtomicU64) {
    let shares = neighbour.name == "the same uid";
    let answered = |answer: Result<(), tonic::Status>| match answer {
        Err(status) if shares && status.code() == Code::ResourceExhausted => Ok(()),
        answer => answer.map_err(|status| status.to_string()),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let channel = try_channel(socket.into()).await.unwrap();
        let mut client = BrokerClient::new(channel.clone());
        let mut health = HealthClient::new(channel);
        let service = || HealthCheckRequest { service: "keyhole.v1.Broker".to_owned() };
        while over.load(Ordering::Relaxed) == 0 {
            let begun = Instant::now();
            let answer = read(&mut client, &[Query::Stat, Query::Meminfo, Query::Loadavg]).await;
            neighbour.note("read", begun, answered(answer.map(drop)));
            let begun = Instant::now();
            let answer = health.check(service()).await;
            neighbour.note("health", begun, answered(answer.map(drop)));
            if !shares {
                let begun = Instant::now();
                neighbour.note("probe", begun, probe(socket, service()).await);
            }
            neighbour.asked.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(INTERVAL).await;
        }
    });
}

/// A health check over a connection of its own. A full queue is tried again, as the probe command does.
async fn probe(socket: &Path, request: HealthCheckRequest) -> Result<(), String> {
    let deadline = Instant::now() + Duration::from_secs(2);
    loop {
        match try_channel(socket.into()).await {
            Ok(channel) => {
                let answer = HealthClient::new(channel).check(request).await;
                return answer.map(drop).map_err(|status| status.to_string());
            }
            Err(error) if Instant::now() > deadline => return Err(error.to_string()),
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}
