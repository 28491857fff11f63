//! Readers that hang in the kernel, die, or see more files than the one before: the real program on fixture trees. A FIFO
//! without a writer is a file that hangs.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::future::Future;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use keyhole_broker::queries::PermittedQueries;
use keyhole_broker::readers::{Options, READ_TIMEOUT, Readers, Status};
use keyhole_broker::response::{ResponseQueue, ResponseStream};
use keyhole_broker::zygote::{self, StartError};
use keyhole_policy::pipes::MAX_STUCK_READERS;
use keyhole_policy::{Class, TABLE};
use keyhole_proto::v1::{File, Outcome, Query, ReadResponse, file};
use keyhole_test_support::programs;
use prost::Message;
use rustix::fs::{CWD, FileType, Mode};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tonic::codegen::tokio_stream::Stream;

/// By how much a query may exceed its time-out on a busy machine.
const SLACK: Duration = Duration::from_millis(1800);

/// Files that are to hang, one for each reader that may be stuck, each of another query.
const HANGING_FILES: [(Query, &str); MAX_STUCK_READERS] = [
    (Query::Thermal, "sys/class/thermal/thermal_zone0/temp"),
    (Query::PowerSupply, "sys/class/power_supply/BAT0/capacity"),
    (Query::Nvme, "sys/class/nvme/nvme0/model"),
    (Query::Watchdog, "sys/class/watchdog/watchdog0/status"),
];

struct Tree(TempDir);

impl Tree {
    fn with(files: &[(&str, &str)]) -> Self {
        let tree = Self(tempfile::tempdir().unwrap());
        ["proc", "sys"].iter().for_each(|root| fs::create_dir(tree.at(root)).unwrap());
        files.iter().for_each(|(path, content)| fs::write(tree.make_room(path), content).unwrap());
        tree
    }

    fn at(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn make_room(&self, path: &str) -> PathBuf {
        let path = self.at(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }

    /// Replaces a file by one that hangs.
    fn hang(&self, path: &str) -> HangingFile {
        let path = self.make_room(path);
        rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        HangingFile {
            aside: self.0.path().join(format!("jam{}", path.to_str().unwrap().replace('/', "-"))),
            path,
        }
    }

    fn arguments(&self) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = vec![
            format!("--path.procfs={}", self.at("proc").display()).into(),
            format!("--path.sysfs={}", self.at("sys").display()).into(),
            "--view=host".into(),
            "--descriptor-cache=64".into(),
            "--allow-root".into(),
            "--allow-capabilities".into(),
        ];
        arguments.extend(TABLE.iter().map(|row| format!("--query={}", row.query as i32).into()));
        arguments
    }

    async fn readers(&self) -> Ground {
        self.readers_with(Duration::from_secs(3600), self.arguments()).await
    }

    async fn readers_with(&self, reopen_interval: Duration, arguments: Vec<OsString>) -> Ground {
        let [_, program] = programs::broker_and_reader(env!("CARGO_BIN_EXE_keyhole-broker"));
        let (zygote, mut reports, slots) = zygote::start(program, arguments).await.unwrap();
        tokio::spawn(async move { reports.follow().await });
        let options =
            Options { permits: PermittedQueries::default(), reopen_interval, deaths_per_minute: usize::MAX };
        let readers = Readers::start(zygote.clone(), slots, options).await.unwrap();
        Ground { readers, zygote: zygote.pid() }
    }
}

struct HangingFile {
    path: PathBuf,
    aside: PathBuf,
}

impl HangingFile {
    /// Replaces it by an ordinary file, and releases the readers that hang in it.
    async fn release(&self) {
        fs::rename(&self.path, &self.aside).unwrap();
        fs::write(&self.path, "1\n").unwrap();
        soon("a reader of the fifo", || {
            let mut options = OpenOptions::new();
            options.write(true).custom_flags(libc::O_NONBLOCK).open(&self.aside).is_ok()
        })
        .await;
    }
}

async fn soon(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !is_so() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn bounded<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), what).await.expect("an answer within 60 s")
}

struct Ground {
    readers: Readers,
    zygote: i32,
}

/// The result of each query.
#[derive(Debug, Default)]
struct Answered {
    ends: HashMap<Query, (Outcome, Duration)>,
    /// Of each query.
    files: HashMap<Query, Vec<File>>,
    took: Duration,
}

impl Answered {
    fn outcome(&self, query: Query) -> Outcome {
        self.ends[&query].0
    }

    fn content(&self, query: Query, path: &str) -> Option<&file::Content> {
        let files = self.files.get(&query)?.iter();
        files
            .filter(|file| file.name == Some(file::Name::Path(path.into())))
            .find_map(|file| file.content.as_ref())
    }

    /// All text of a query, in order.
    fn text(&self, query: Query) -> String {
        let text = |file: &File| match &file.content {
            Some(file::Content::Text(text)) => text.clone(),
            other => panic!("{other:?}"),
        };
        self.files.get(&query).into_iter().flatten().map(text).collect()
    }

    fn add(&mut self, chunk: &[u8]) {
        let chunk = ReadResponse::decode(chunk).unwrap();
        let query = chunk.query();
        assert!(!self.ends.contains_key(&query), "{query:?} continues after its end");
        self.files.entry(query).or_default().extend(chunk.files);
        if let Some(end) = chunk.end {
            self.ends.insert(query, (end.outcome(), Duration::from_nanos(end.elapsed_ns)));
        }
    }
}

async fn next(chunks: &mut ResponseStream) -> Option<Vec<u8>> {
    let mut chunks = pin!(chunks);
    let next = std::future::poll_fn(|context| chunks.as_mut().poll_next(context)).await;
    next.map(|chunk| chunk.unwrap().0.to_vec())
}

impl Ground {
    async fn ask(&self, queries: &[Query]) -> Answered {
        let (mut answered, start) = (Answered::default(), Instant::now());
        let answer = Arc::new(ResponseQueue::default());
        let mut chunks = ResponseStream(answer.clone());
        let read = async {
            self.readers.read(queries, &answer).await;
            answer.finish(None);
        };
        let take = async {
            while let Some(chunk) = next(&mut chunks).await {
                answered.add(&chunk);
            }
        };
        bounded(async { tokio::join!(read, take) }).await;
        answered.took = start.elapsed();
        assert_eq!(answered.ends.len(), queries.len(), "each query ends once");
        answered
    }

    fn status(&self, class: Class) -> Status {
        self.readers.statuses().find(|(of, _)| *of == class).unwrap().1
    }

    /// The readers of a class that run, by what the kernel calls their processes.
    fn readers(&self) -> Vec<i32> {
        let path = format!("/proc/{0}/task/{0}/children", self.zygote);
        fs::read_to_string(path).unwrap().split_whitespace().map(|pid| pid.parse().unwrap()).collect()
    }
}

fn signal(pid: i32, signal: Signal) {
    let _ = kill_process(Pid::from_raw(pid).unwrap(), signal);
}

fn kill(pid: i32) {
    signal(pid, Signal::KILL);
}

#[tokio::test]
async fn every_query_is_answered_once() {
    let tree = Tree::with(&[("proc/loadavg", "1"), ("proc/meminfo", "2"), ("proc/stat", "3")]);
    let ground = tree.readers().await;
    let mut queries: Vec<Query> = TABLE.iter().map(|row| row.query).collect();
    for _ in 0..3 {
        queries.reverse();
        let answered = ground.ask(&queries).await;
        assert_eq!(answered.text(Query::Loadavg), "1");
        assert_eq!(answered.text(Query::Stat), "3");
        assert!(answered.ends.values().all(|(outcome, _)| matches!(
            outcome,
            Outcome::Ok | Outcome::Empty | Outcome::Absent | Outcome::Denied
        )));
    }
}

#[tokio::test]
async fn a_file_that_hangs_delays_its_query_once_and_no_other() {
    use Query::{Hwmon, Loadavg, Thermal};
    let tree = Tree::with(&[
        ("proc/loadavg", "1"),
        ("sys/class/hwmon/hwmon0/name", "chip"),
        ("sys/class/thermal/thermal_zone0/type", "acpitz"),
        ("sys/class/thermal/thermal_zone1/temp", "40000"),
    ]);
    let hanging_file = tree.hang(HANGING_FILES[0].1);
    let ground = tree.readers().await;

    let first = ground.ask(&[Loadavg, Thermal, Hwmon]).await;
    assert!(first.took >= READ_TIMEOUT && first.took < READ_TIMEOUT + SLACK, "{:?}", first.took);
    for round in 0..5 {
        let answered = if round == 0 { &first } else { &ground.ask(&[Thermal, Loadavg, Hwmon]).await };
        for query in [Loadavg, Thermal, Hwmon] {
            assert_eq!(answered.outcome(query), Outcome::Ok);
        }
        // The other devices are there, and the file that hangs is reported.
        let content = |path| answered.content(Thermal, path);
        assert_eq!(
            content("sys/class/thermal/thermal_zone1/temp"),
            Some(&file::Content::Text("40000".into()))
        );
        let hangs = Some(&file::Content::Errno(rustix::io::Errno::INPROGRESS.raw_os_error() as u32));
        assert_eq!(content("sys/class/thermal/thermal_zone0/temp"), hangs);
        assert!(round == 0 || answered.took < SLACK, "{:?}", answered.took);
        let status = ground.status(Class::Devices);
        assert_eq!((status.stuck, &*status.skipping, status.replacements), (1, &[Thermal][..], 1));
        assert!(status.available);
    }
    assert_eq!(ground.readers.stuck_queries(), 1);

    hanging_file.release().await;
    soon("the reader", || ground.status(Class::Devices).stuck == 0).await;
    let healed = ground.ask(&[Thermal]).await;
    assert_eq!(healed.content(Thermal, HANGING_FILES[0].1), Some(&file::Content::Text("1\n".into())));
    assert_eq!(ground.status(Class::Devices).deaths, 0, "an end that was asked for is no death");
}

#[tokio::test]
async fn devices_beyond_the_cache_are_read_completely() {
    const ZONES: usize = 4098;
    // In memory if possible: it takes a minute to make so many files on a disk.
    let tree = Tree(tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap());
    ["proc", "sys"].iter().for_each(|root| fs::create_dir(tree.at(root)).unwrap());
    let path = |zone, file| format!("sys/class/thermal/thermal_zone{zone}/{file}");
    for zone in 0..ZONES {
        for file in ["temp", "type"] {
            fs::write(tree.make_room(&path(zone, file)), format!("{file} {zone}")).unwrap();
        }
    }
    let ground = tree.readers().await;
    let answered = ground.ask(&[Query::Thermal]).await;
    assert_eq!(answered.outcome(Query::Thermal), Outcome::Ok);
    let files = &answered.files[&Query::Thermal];
    let contents: HashMap<_, _> =
        files.iter().map(|file| (file.name.clone(), file.content.clone())).collect();
    assert_eq!(contents.len(), 2 * ZONES);
    for zone in 0..ZONES {
        for file in ["temp", "type"] {
            let content = &contents[&Some(file::Name::Path(path(zone, file)))];
            assert_eq!(*content, Some(file::Content::Text(format!("{file} {zone}"))));
        }
    }
}

/// As on a machine with thousands of devices, whose files together take longer than one file may.
#[tokio::test]
async fn a_long_query_that_keeps_writing_is_not_stuck() {
    const ZONES: usize = 28;
    let tree = Tree::with(&[]);
    let kind = "x".repeat(4000);
    let mut slow = Vec::new();
    for zone in 0..ZONES {
        let zone = format!("sys/class/thermal/thermal_zone{zone:02}");
        fs::write(tree.make_room(&format!("{zone}/type")), &kind).unwrap();
        slow.push(tree.hang(&format!("{zone}/temp")).path);
    }
    let ground = tree.readers().await;
    // Each hangs for a moment, one after the other, and is then empty.
    let feeder = std::thread::spawn(move || {
        for path in slow {
            std::thread::sleep(Duration::from_millis(100));
            let deadline = Instant::now() + Duration::from_secs(10);
            let mut options = OpenOptions::new();
            options.write(true).custom_flags(libc::O_NONBLOCK);
            while options.open(&path).is_err() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    });
    let answered = ground.ask(&[Query::Thermal]).await;
    assert_eq!(answered.outcome(Query::Thermal), Outcome::Ok, "{:?}", answered.took);
    assert!(answered.took > READ_TIMEOUT, "{:?}", answered.took);
    let kinds = (0..ZONES).filter(|zone| {
        let path = format!("sys/class/thermal/thermal_zone{zone:02}/type");
        answered.content(Query::Thermal, &path) == Some(&file::Content::Text(kind.clone()))
    });
    assert_eq!(kinds.count(), ZONES);
    assert_eq!((ground.status(Class::Devices).stuck, ground.status(Class::Devices).replacements), (0, 0));
    feeder.join().unwrap();
}

#[tokio::test]
async fn a_class_without_a_reader_fails_at_once_and_the_others_are_read() {
    let tree = Tree::with(&[("proc/loadavg", "1"), ("sys/class/hwmon/hwmon0/name", "chip")]);
    let hanging_files = HANGING_FILES.map(|(_, path)| tree.hang(path));
    let ground = tree.readers().await;
    let hanging = HANGING_FILES.map(|(query, _)| query);
    let queries = [&hanging[..], &[Query::Hwmon, Query::Loadavg]].concat();
    let answered = ground.ask(&queries).await;
    assert_eq!(answered.outcome(Query::Loadavg), Outcome::Ok);
    assert!(answered.took < MAX_STUCK_READERS as u32 * (READ_TIMEOUT + SLACK), "{:?}", answered.took);
    let status = ground.status(Class::Devices);
    assert_eq!((status.available, status.stuck), (false, MAX_STUCK_READERS));
    assert_eq!(ground.readers().len(), MAX_STUCK_READERS + 5, "a reader of every other class");

    let refused = ground.ask(&[Query::Hwmon, Query::Thermal, Query::Loadavg]).await;
    assert_eq!([Query::Hwmon, Query::Thermal].map(|query| refused.outcome(query)), [Outcome::Stuck; 2]);
    assert_eq!(refused.outcome(Query::Loadavg), Outcome::Ok);
    assert!(refused.took < SLACK, "{:?}", refused.took);
    let (outcome, reason) = ground.readers.unavailable(Query::Hwmon).unwrap();
    assert!(outcome == Outcome::Stuck && reason.contains("devices"), "{reason}");

    for hanging_file in &hanging_files {
        hanging_file.release().await;
    }
    soon("every reader", || ground.status(Class::Devices).stuck == 0).await;
    let healed = ground.ask(&queries).await;
    assert!(healed.ends.values().all(|(outcome, _)| *outcome == Outcome::Ok), "{healed:?}");
}

#[tokio::test]
async fn a_cancelled_read_leaves_nothing_in_the_next_response() {
    let long: String = (0..40_000).map(|line| format!("diskstats {line}\n")).collect();
    let tree = Tree::with(&[("proc/loadavg", "1"), ("proc/diskstats", &long), ("proc/meminfo", "2")]);
    let ground = tree.readers().await;
    for taken in [0, 1, 3, 0, 1, 3, 0, 0, 0] {
        let answer = Arc::new(ResponseQueue::default());
        let mut chunks = ResponseStream(answer.clone());
        let take = async {
            for _ in 0..taken {
                next(&mut chunks).await;
            }
            // A part of it has been read by then.
            tokio::time::sleep(Duration::from_millis(2)).await;
        };
        tokio::select! {
            _ = ground.readers.read(&[Query::Diskstats, Query::Loadavg], &answer) => {}
            () = take => {}
        }
        let next = ground.ask(&[Query::Meminfo, Query::Loadavg]).await;
        assert_eq!((next.text(Query::Meminfo), next.text(Query::Loadavg)), ("2".into(), "1".into()));
        assert!(next.took < SLACK, "{:?}", next.took);
    }
    assert_eq!(ground.status(Class::Procfs).replacements, 0);
}

#[tokio::test]
async fn a_read_cancelled_during_a_check_keeps_the_reader() {
    let tree = Tree::with(&[("proc/loadavg", "1"), ("proc/meminfo", "2")]);
    let ground = tree.readers_with(Duration::from_millis(1), tree.arguments()).await;
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_millis(2)).await;
        let pids = ground.readers();
        pids.iter().for_each(|pid| signal(*pid, Signal::STOP));
        let answer = ResponseQueue::default();
        let cancelled = tokio::time::timeout(
            Duration::from_millis(50),
            ground.readers.read(&[Query::Loadavg, Query::Cpu], &answer),
        );
        assert!(cancelled.await.is_err(), "a stopped reader does not answer");
        pids.iter().for_each(|pid| signal(*pid, Signal::CONT));
        let next = ground.ask(&[Query::Meminfo, Query::Loadavg]).await;
        assert_eq!((next.text(Query::Meminfo), next.text(Query::Loadavg)), ("2".into(), "1".into()));
    }
    let status = ground.status(Class::Procfs);
    assert_eq!((status.replacements, status.stuck), (0, 0));
}

#[tokio::test]
async fn an_order_that_the_zygote_follows_too_late_leaves_no_extra_reader() {
    let tree = Tree::with(&[("proc/loadavg", "1")]);
    let ground = tree.readers().await;
    ground.ask(&[Query::Loadavg]).await;
    let before = ground.readers().len();
    let stat = String::from_utf8(ground.status(Class::Procfs).stat.to_vec()).unwrap();
    let procfs: i32 = stat.split(' ').next().unwrap().parse().unwrap();
    signal(ground.zygote, Signal::STOP);
    kill(procfs);
    let late = ground.ask(&[Query::Loadavg]).await;
    assert!(matches!(late.outcome(Query::Loadavg), Outcome::Stuck | Outcome::TimedOut), "{late:?}");
    signal(ground.zygote, Signal::CONT);
    soon("readers that were ordered to end", || ground.status(Class::Procfs).stuck == 0).await;
    assert_eq!(ground.ask(&[Query::Loadavg]).await.text(Query::Loadavg), "1");
    soon("no reader too many", || ground.readers().len() == before).await;
}

#[tokio::test]
async fn a_slow_client_is_waited_for_and_its_response_is_not_buffered() {
    let long = "x".repeat(3 << 20);
    let tree = Tree::with(&[("proc/diskstats", &long), ("proc/cpuinfo", &long)]);
    let ground = tree.readers().await;
    let answer = Arc::new(ResponseQueue::default());
    let mut chunks = ResponseStream(answer.clone());
    let queries = [Query::Diskstats, Query::Cpuinfo];
    let take = async {
        // Longer than a query may take: that time-out is for the kernel, not for clients.
        tokio::time::sleep(READ_TIMEOUT + Duration::from_millis(300)).await;
        let mut answered = Answered::default();
        let mut waiting = 0;
        while let Some(chunk) = next(&mut chunks).await {
            assert!(chunk.len() < 32 << 10, "a message is small");
            waiting = waiting.max(chunk.len());
            answered.add(&chunk);
        }
        answered
    };
    let read = async {
        ground.readers.read(&queries, &answer).await;
        answer.finish(None);
    };
    let ((), answered) = bounded(async { tokio::join!(read, take) }).await;
    for query in queries {
        assert_eq!(answered.outcome(query), Outcome::Ok);
        assert!(answered.ends[&query].1 < READ_TIMEOUT, "waiting for a client is no reading");
        assert_eq!(answered.text(query).len(), long.len());
    }
}

/// Readers are killed at any moment of an answer, with more queries queued.
#[tokio::test]
async fn no_byte_of_a_killed_reader_is_in_a_later_response() {
    const KILLS: usize = 1000;
    let of = |name: &str| (0..6_000).map(|line| format!("{name} {line}\n")).collect::<String>();
    let files = [
        (Query::Diskstats, "proc/diskstats"),
        (Query::Cpuinfo, "proc/cpuinfo"),
        (Query::Stat, "proc/stat"),
        (Query::Loadavg, "proc/loadavg"),
        (Query::NetDev, "proc/1/net/dev"),
    ];
    let texts = files.map(|(_, path)| of(path));
    let laid: Vec<_> = files.iter().zip(&texts).map(|((_, path), text)| (*path, text.as_str())).collect();
    let tree = Tree::with(&laid);
    let ground = tree.readers().await;
    let queries = files.map(|(query, _)| query);
    let text_of = |query: Query| {
        // Loadavg's row allows a page.
        let at = queries.iter().position(|of| *of == query).unwrap();
        if query == Query::Loadavg { texts[at][..4096].to_owned() } else { texts[at].clone() }
    };
    let mut takes = Duration::MAX;
    for _ in 0..5 {
        let start = Instant::now();
        ground.ask(&queries).await;
        takes = takes.min(start.elapsed());
    }
    let (mut kills, mut failed, mut whole, mut seed) = (0, 0, 0, 1_u64);
    while kills < KILLS {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // During the answer or shortly after.
        let moment = takes.mul_f64(f64::from((seed >> 33) as u32 & 4095) / 2048.0);
        // A new reader, whose predecessor may have left bytes in the pipe.
        let ready = ground.ask(&[Query::Loadavg, Query::Stat]).await;
        for query in [Query::Loadavg, Query::Stat] {
            let outcome = ready.outcome(query);
            assert!(ready.text(query) == text_of(query), "{query:?}: {outcome:?} after {kills} kills");
        }
        let kill_all = async {
            let start = Instant::now();
            // The resolution of timers is longer than some answers.
            while start.elapsed() < moment {
                tokio::task::yield_now().await;
            }
            let readers = ground.readers();
            readers.iter().for_each(|pid| kill(*pid));
            readers.len()
        };
        let (answered, killed) = tokio::join!(ground.ask(&queries), kill_all);
        kills += killed.min(1);
        for query in queries {
            match answered.outcome(query) {
                Outcome::Ok | Outcome::Truncated => {
                    assert!(answered.text(query) == text_of(query), "{query:?} after {kills} kills");
                    whole += 1;
                }
                Outcome::Failed => {
                    assert!(
                        text_of(query).starts_with(&answered.text(query)),
                        "{query:?} after {kills} kills"
                    );
                    failed += 1;
                }
                // No reader was ready in time.
                Outcome::Stuck => {}
                other => panic!("{query:?}: {other:?}"),
            }
        }
    }
    println!("{kills} kills: {whole} queries whole, {failed} failed");
    assert!(whole >= KILLS && failed >= KILLS / 20, "{whole} whole, {failed} failed");
    let after = ground.ask(&queries).await;
    assert!(queries.iter().all(|query| after.text(*query) == text_of(*query)));
}

#[tokio::test]
async fn files_absent_at_the_start_are_found_within_the_interval() {
    const INTERVAL: Duration = Duration::from_secs(1);
    let tree = Tree::with(&[("proc/loadavg", "1")]);
    let ground = tree.readers_with(INTERVAL, tree.arguments()).await;
    let asked = [Query::Conntrack, Query::Nfs, Query::Ipvs, Query::Drbd, Query::Zfs, Query::Loadavg];
    let before = ground.ask(&asked).await;
    for query in &asked[..5] {
        assert_eq!(before.outcome(*query), Outcome::Absent, "{query:?}");
    }
    assert_eq!(ground.readers.unavailable(Query::Nfs).unwrap().0, Outcome::Absent);
    for (path, text) in [
        ("proc/1/net/stat/nf_conntrack", "entries\n0000000a\n"),
        ("proc/1/net/rpc/nfs", "net 0 0 0 0\n"),
        ("proc/1/net/ip_vs_stats", "x\n"),
        ("proc/drbd", "version\n"),
        ("proc/spl/kstat/zfs/tank/state", "ONLINE\n"),
    ] {
        fs::write(tree.make_room(path), text).unwrap();
    }
    tokio::time::sleep(INTERVAL).await;
    let after = ground.ask(&asked).await;
    for query in &asked {
        assert_eq!(after.outcome(*query), Outcome::Ok, "{query:?}");
    }
    assert!(ground.readers.unavailable(Query::Nfs).is_none());
    for class in [Class::Procfs, Class::Devices] {
        let status = ground.status(class);
        assert_eq!((status.reopenings, status.deaths), (1, 0), "{class:?}");
    }
    soon("the old readers' end", || ground.readers().len() == 6).await;
    // A pool that appears later is found too.
    fs::write(tree.make_room("proc/spl/kstat/zfs/dozer/state"), "ONLINE\n").unwrap();
    tokio::time::sleep(INTERVAL).await;
    let later = ground.ask(&[Query::Zfs]).await;
    assert!(later.content(Query::Zfs, "proc/spl/kstat/zfs/dozer/state").is_some());
}

/// Files that appear in procfs when a module is loaded or first used: the module, the query, and the files.
const MODULES: &[(&str, Query, &[&str])] = &[
    ("nf_conntrack", Query::Conntrack, &["proc/1/net/stat/nf_conntrack"]),
    (
        "nf_conntrack without its procfs",
        Query::Conntrack,
        &["proc/sys/net/netfilter/nf_conntrack_max", "proc/sys/net/netfilter/nf_conntrack_count"],
    ),
    ("nf_conntrack's sysctls", Query::NetSysctl, &["proc/sys/net/netfilter/nf_conntrack_acct"]),
    ("nf_conntrack's limits", Query::Sysctl, &["proc/sys/net/netfilter/nf_conntrack_buckets"]),
    ("br_netfilter", Query::NetSysctl, &["proc/sys/net/bridge/bridge-nf-call-iptables"]),
    ("ip_vs", Query::Ipvs, &["proc/1/net/ip_vs", "proc/1/net/ip_vs_stats"]),
    ("ip_vs' sysctls", Query::NetSysctl, &["proc/sys/net/ipv4/vs/conntrack"]),
    // Neither exists before sunrpc has made the directory.
    ("nfs", Query::Nfs, &["proc/1/net/rpc/nfs"]),
    ("nfsd", Query::Nfsd, &["proc/1/net/rpc/nfsd"]),
    ("sunrpc", Query::Sysctl, &["proc/sys/sunrpc/tcp_slot_table_entries"]),
    ("nf_synproxy_core", Query::Lnstat, &["proc/1/net/stat/synproxy"]),
    ("arp and ndisc", Query::Lnstat, &["proc/1/net/stat/arp_cache", "proc/1/net/stat/ndisc_cache"]),
    ("ipv6", Query::NetSnmp, &["proc/1/net/snmp6"]),
    ("ipv6", Query::Sockstat, &["proc/1/net/sockstat6"]),
    ("ipv6", Query::Udp, &["proc/1/net/udp6"]),
    ("ipv6", Query::Tcp, &["proc/1/net/tcp6"]),
    ("ipv6", Query::Routes, &["proc/1/net/ipv6_route"]),
    ("ipv6", Query::NetAddresses, &["proc/1/net/if_inet6"]),
    ("xfrm", Query::Xfrm, &["proc/1/net/xfrm_stat"]),
    ("md", Query::Md, &["proc/mdstat"]),
    ("md", Query::Sysctl, &["proc/sys/dev/raid/speed_limit_max"]),
    ("drbd", Query::Drbd, &["proc/drbd"]),
    ("zfs", Query::Zfs, &["proc/spl/kstat/zfs/arcstats", "proc/spl/kstat/zfs/tank/state"]),
    ("psi, when it is switched on", Query::Pressure, &["proc/pressure/cpu", "proc/pressure/irq"]),
    ("schedstats", Query::Schedstat, &["proc/schedstat"]),
    ("hung tasks", Query::HungTasks, &["proc/sys/kernel/hung_task_detect_count"]),
    ("mqueue", Query::NamespaceSysctl, &["proc/sys/fs/mqueue/msg_max"]),
];

#[tokio::test]
async fn the_files_of_each_module_are_found_within_the_interval_and_absent_before() {
    const INTERVAL: Duration = Duration::from_millis(300);
    for (module, query, files) in MODULES {
        // Other files of the same class exist from the start.
        let tree = Tree::with(&[("proc/loadavg", "1")]);
        let ground = tree.readers_with(INTERVAL, tree.arguments()).await;
        assert_eq!(ground.ask(&[*query]).await.outcome(*query), Outcome::Absent, "{module}");
        let class = keyhole_policy::row(*query).unwrap().class;
        if *query != Query::Md {
            let (outcome, reason) = ground.readers.unavailable(*query).unwrap();
            assert_eq!(outcome, Outcome::Absent, "{module}");
            assert!(reason.ends_with("(os error 2); checked again every 0 s"), "{module}: {reason}");
        }
        for path in *files {
            fs::write(tree.make_room(path), format!("{path}\n")).unwrap();
        }
        tokio::time::sleep(INTERVAL).await;
        let after = ground.ask(&[*query]).await;
        assert_eq!(after.outcome(*query), Outcome::Ok, "{module}");
        for path in *files {
            assert!(after.content(*query, path).is_some(), "{module}: {path}");
        }
        assert!(ground.readers.unavailable(*query).is_none(), "{module}");
        assert_eq!(ground.status(class).reopenings, 1, "{module}");
    }
}

#[tokio::test]
async fn a_file_that_a_module_adds_to_an_available_query_is_found_too() {
    const INTERVAL: Duration = Duration::from_millis(300);
    let tree =
        Tree::with(&[("proc/1/net/stat/arp_cache", "entries\n"), ("proc/spl/kstat/zfs/arcstats", "1\n")]);
    let ground = tree.readers_with(INTERVAL, tree.arguments()).await;
    assert_eq!(ground.ask(&[Query::Lnstat]).await.outcome(Query::Lnstat), Outcome::Ok);
    assert_eq!(ground.ask(&[Query::Zfs]).await.outcome(Query::Zfs), Outcome::Ok);
    let added = [
        (Query::Lnstat, "proc/1/net/stat/synproxy"),
        (Query::Zfs, "proc/spl/kstat/zfs/dbufstats"),
        (Query::Zfs, "proc/spl/kstat/zfs/tank/io"),
    ];
    for (query, path) in added {
        fs::write(tree.make_room(path), "x\n").unwrap();
        tokio::time::sleep(INTERVAL).await;
        assert!(ground.ask(&[query]).await.content(query, path).is_some(), "{path}");
    }
}

#[tokio::test]
async fn a_reader_is_replaced_only_if_the_new_one_opened_other_files() {
    const INTERVAL: Duration = Duration::from_millis(300);
    let tree = Tree::with(&[("proc/spl/kstat/zfs/tank/state", "ONLINE\n")]);
    let ground = tree.readers_with(INTERVAL, tree.arguments()).await;
    ground.ask(&[Query::Zfs]).await;
    let pid = || {
        let stat = String::from_utf8(ground.status(Class::Devices).stat.to_vec()).unwrap();
        stat.split(' ').next().unwrap().parse::<i32>().unwrap()
    };
    let first = pid();
    for _ in 0..4 {
        tokio::time::sleep(INTERVAL).await;
        assert!(
            ground.ask(&[Query::Zfs]).await.content(Query::Zfs, "proc/spl/kstat/zfs/tank/state").is_some()
        );
        assert_eq!((pid(), ground.status(Class::Devices).reopenings), (first, 0));
    }
    soon("the end of those that found nothing new", || ground.readers().len() == 6).await;
    fs::write(tree.make_room("proc/spl/kstat/zfs/tank/objset-0x36"), "dataset").unwrap();
    tokio::time::sleep(INTERVAL).await;
    let after = ground.ask(&[Query::Zfs]).await;
    assert!(after.content(Query::Zfs, "proc/spl/kstat/zfs/tank/objset-0x36").is_some());
    let status = ground.status(Class::Devices);
    assert_eq!((status.reopenings, status.deaths, status.stuck), (1, 0, 0));
}

#[tokio::test]
async fn a_reader_reports_its_stat_before_its_first_answer() {
    let tree = Tree::with(&[("proc/loadavg", "1")]);
    let ground = tree.readers().await;
    ground.ask(&[Query::Loadavg]).await;
    let stat = String::from_utf8(ground.status(Class::Procfs).stat.to_vec()).unwrap();
    let pid: i32 = stat.split(' ').next().unwrap().parse().unwrap();
    assert!(ground.readers().contains(&pid), "{stat}");
    assert!(stat.contains(" (keyhole-reader) "), "{stat}");
}

#[tokio::test]
async fn queries_that_are_not_permitted_are_not_read() {
    let tree = Tree::with(&[("proc/loadavg", "1"), ("proc/1/net/tcp", "x")]);
    let arguments = tree.arguments().into_iter().filter(|argument| argument != "--query=104").collect();
    let ground = tree.readers_with(Duration::from_secs(60), arguments).await;
    // Even if the broker asked: a query that is not permitted ends the reader.
    let answered = ground.ask(&[Query::Loadavg, Query::Tcp]).await;
    assert_eq!(
        (answered.outcome(Query::Loadavg), answered.outcome(Query::Tcp)),
        (Outcome::Ok, Outcome::Failed)
    );
    let open = ground.readers().iter().any(|pid| {
        let fds = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
        fds.flatten().any(|fd| fs::read_link(fd.path()).is_ok_and(|path| path.ends_with("proc/1/net/tcp")))
    });
    assert!(!open);
}

#[tokio::test]
async fn a_wrong_program_as_reader_fails_the_start_with_what_to_do() {
    let start = async |program: &Path| match zygote::start(program.to_owned(), Vec::new()).await {
        Err(error) => error,
        Ok(_) => panic!("{} is no reader", program.display()),
    };
    let missing = start(Path::new("/nowhere/keyhole-reader")).await;
    assert!(
        matches!(missing, StartError::Program { .. })
            && missing.to_string().contains("in the directory of keyhole-broker")
    );
    let ended = start(Path::new("/bin/true")).await;
    assert!(
        matches!(ended, StartError::Exited { .. }) && ended.to_string().contains("of this version"),
        "{ended}"
    );
    // It writes malformed frames.
    let other = start(Path::new("/bin/cat")).await;
    let silent = Instant::now();
    assert!(matches!(other, StartError::TimedOut { .. } | StartError::Exited { .. }), "{other}");
    assert!(silent.elapsed() < Duration::from_secs(10));
}
