//! Measures what a flood costs: CPU and memory of the broker and its readers, and the response times of other clients.

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

/// How often a client asks.
const INTERVAL: Duration = Duration::from_millis(150);

/// The resources of the broker and of the processes that it started.
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

/// The resources of one process.
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
        // Its own time, and that of children that it has waited for: readers that were replaced are included.
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

    /// Resets the kernel's peak values.
    pub(crate) fn forget_peaks(&self) {
        for pid in [vec![self.pid], descendants(self.pid)].concat() {
            // A reader may have exited meanwhile.
            let forgotten = fs::write(format!("/proc/{pid}/clear_refs"), "5");
            assert!(forgotten.is_ok() || pid != self.pid, "{forgotten:?}");
        }
    }

    /// Waits until there are at most `before` descriptors, or until a time-out; returns how many there are.
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

/// A client that keeps to its limits.
pub(crate) struct WellBehavedClient {
    pub(crate) name: &'static str,
    asked: AtomicU64,
    worst: Mutex<Duration>,
    failures: Mutex<Vec<String>>,
}

impl WellBehavedClient {
    pub(crate) fn new(name: &'static str) -> Self {
        Self { name, asked: AtomicU64::new(0), worst: Mutex::default(), failures: Mutex::default() }
    }

    /// Waits until it has sent two rounds of requests without a flood, and resets its results.
    pub(crate) fn wait_until_calm(&self) {
        let (since, deadline) =
            (self.asked.load(Ordering::Relaxed), Instant::now() + Duration::from_secs(20));
        while self.asked.load(Ordering::Relaxed) < since + 2 {
            assert!(
                Instant::now() < deadline,
                "{} is not answered in peace: {:?}",
                self.name,
                self.failures()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        self.worst();
        self.failures();
    }

    /// Its longest response time since the last call.
    pub(crate) fn worst(&self) -> Duration {
        std::mem::take(&mut *self.worst.lock().unwrap())
    }

    /// Its failed requests since the last call.
    pub(crate) fn failures(&self) -> Vec<String> {
        std::mem::take(&mut *self.failures.lock().unwrap())
    }

    fn record<T>(&self, what: &str, start: Instant, answer: Result<T, String>) {
        let mut worst = self.worst.lock().unwrap();
        *worst = (*worst).max(start.elapsed());
        if let Err(error) = answer {
            self.failures.lock().unwrap().push(format!("{}'s {what}: {error}", self.name));
        }
    }
}

/// Sends requests at an interval until the test is over, on one connection, and like a probe on new ones.
///
/// A client of the hostile uid shares its limits: for it RESOURCE_EXHAUSTED is an answer, and it opens no new connections.
pub(crate) fn ask_until_stopped(results: &WellBehavedClient, socket: &Path, over: &AtomicU64) {
    let shares_limits = results.name == "the same uid";
    let answered = |answer: Result<(), tonic::Status>| match answer {
        Err(status) if shares_limits && status.code() == Code::ResourceExhausted => Ok(()),
        answer => answer.map_err(|status| status.to_string()),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let channel = try_channel(socket.into()).await.unwrap();
        let mut client = BrokerClient::new(channel.clone());
        let mut health = HealthClient::new(channel);
        let service = || HealthCheckRequest { service: "keyhole.v1.Broker".to_owned() };
        while over.load(Ordering::Relaxed) == 0 {
            let start = Instant::now();
            let answer = read(&mut client, &[Query::Stat, Query::Meminfo, Query::Loadavg]).await;
            results.record("read", start, answered(answer.map(drop)));
            let start = Instant::now();
            let answer = health.check(service()).await;
            results.record("health", start, answered(answer.map(drop)));
            if !shares_limits {
                let start = Instant::now();
                results.record("probe", start, probe(socket, service()).await);
            }
            results.asked.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(INTERVAL).await;
        }
    });
}

/// A health check on a new connection. Like the probe command it tries again if the backlog is full.
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
