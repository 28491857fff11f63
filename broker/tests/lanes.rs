//! Reads that sleep in the kernel, and clients that are slow: a fifo that nobody writes to stands for a file that
//! never answers.

use std::fs::{self, OpenOptions};
use std::future::Future;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use keyhole_broker::host::{Host, PART_BYTES, Paths, Roots};
use keyhole_broker::lanes::{Lanes, Reading, StartError};
use keyhole_broker::part::Part;
use keyhole_broker::view::{Choice, View};
use keyhole_proto::Encoded;
use keyhole_proto::v1::{File, Outcome, Query, ReadResponse, file};
use prost::Message;
use rustix::fs::{CWD, FileType, Mode};
use tempfile::TempDir;

/// What a query may spend, and what a test grants it on a busy machine.
const BUDGET: Duration = Duration::from_secs(2);
const SLACK: Duration = Duration::from_millis(1500);

/// Files that never answer, one for each of as many queries as there are lanes.
const JAMS: [(Query, &str); 4] = [
    (Query::Thermal, "sys/class/thermal/thermal_zone0/temp"),
    (Query::PowerSupply, "sys/class/power_supply/BAT0/capacity"),
    (Query::Block, "sys/block/sda/queue/rotational"),
    (Query::Clocksource, "sys/devices/system/clocksource/clocksource0/current_clocksource"),
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

    /// Puts a file there that nobody answers for.
    fn jam(&self, path: &str) -> Jam {
        let path = self.make_room(path);
        rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        Jam { aside: self.0.path().join(format!("jam{}", path.to_str().unwrap().replace('/', "-"))), path }
    }

    fn lanes(&self) -> Lanes {
        let paths = Paths { procfs: self.at("proc"), sysfs: self.at("sys"), ..Paths::default() };
        let roots = Roots::open(&paths).unwrap();
        let view = View::find(&roots, Choice::Host).unwrap();
        Lanes::start(Host::open(roots, view), || Ok::<(), String>(())).unwrap()
    }
}

struct Jam {
    path: PathBuf,
    aside: PathBuf,
}

impl Jam {
    /// Puts an ordinary file in its place and lets the lane go that sleeps in it. One must: without an outcome that says
    /// so, it may come only now, and open the ordinary file.
    fn release(&self) {
        fs::rename(&self.path, &self.aside).unwrap();
        fs::write(&self.path, "1\n").unwrap();
        soon("a reader of the fifo", || {
            let mut options = OpenOptions::new();
            options.write(true).custom_flags(libc::O_NONBLOCK).open(&self.aside).is_ok()
        });
    }
}

fn soon(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !is_so() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

async fn bounded<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), what).await.expect("an answer within 30 s")
}

/// What became of each query, in the order of the answers.
#[derive(Debug, Default)]
struct Answer {
    ends: Vec<(Query, Outcome, Duration)>,
    files: Vec<File>,
    took: Duration,
}

impl Answer {
    fn outcomes(&self) -> Vec<(Query, Outcome)> {
        self.ends.iter().map(|(query, outcome, _)| (*query, *outcome)).collect()
    }

    fn has(&self, path: &str) -> bool {
        self.files.iter().any(|file| file.name == Some(file::Name::Path(path.into())))
    }

    /// Adds a batch; a query's parts come together and its end is in the last.
    fn add(&mut self, batch: Vec<Part>) {
        for part in batch {
            let part = ReadResponse::decode(&*Encoded::from(part).0).unwrap();
            let query = part.query();
            assert!(self.ends.iter().all(|(ended, ..)| *ended != query), "{query:?} goes on after its end");
            self.files.extend(part.files);
            if let Some(end) = part.end {
                self.ends.push((query, end.outcome(), Duration::from_nanos(end.elapsed_ns)));
            }
        }
    }
}

async fn take_all(reading: &mut Reading) -> Answer {
    let (mut answer, start) = (Answer::default(), Instant::now());
    while let Some(batch) = bounded(reading.next()).await {
        answer.add(batch);
    }
    answer.took = start.elapsed();
    answer
}

async fn ask(lanes: &Lanes, queries: &[Query]) -> Answer {
    let start = Instant::now();
    let mut answer = take_all(&mut bounded(lanes.begin(queries.to_vec())).await).await;
    answer.took = start.elapsed();
    answer
}

#[tokio::test]
async fn every_query_is_answered_once_in_the_order_asked() {
    let tree = Tree::with(&[("proc/loadavg", "1"), ("proc/meminfo", "2"), ("proc/stat", "3")]);
    let lanes = tree.lanes();
    let mut queries: Vec<Query> = keyhole_policy::TABLE.iter().map(|row| row.query).collect();
    for _ in 0..2 {
        queries.reverse();
        let answer = ask(&lanes, &queries).await;
        assert_eq!(answer.ends.iter().map(|(query, ..)| *query).collect::<Vec<_>>(), queries);
        assert!(answer.has("proc/loadavg") && answer.has("proc/meminfo") && answer.has("proc/stat"));
    }
}

#[tokio::test]
async fn a_query_that_never_returns_times_out_alone_and_is_stuck_until_it_does() {
    use Outcome::{Ok, Stuck, TimedOut};
    use Query::{Loadavg, Meminfo, Thermal};
    let tree = Tree::with(&[
        ("proc/loadavg", "1"),
        ("proc/meminfo", "2"),
        ("sys/class/thermal/thermal_zone0/type", "acpitz"),
    ]);
    let jam = tree.jam(JAMS[0].1);
    let lanes = tree.lanes();

    let first = ask(&lanes, &[Loadavg, Thermal, Meminfo]).await;
    assert_eq!(first.outcomes(), [(Loadavg, Ok), (Thermal, TimedOut), (Meminfo, Ok)]);
    assert!(first.took >= BUDGET && first.took < BUDGET + SLACK, "{:?}", first.took);
    let elapsed = first.ends[1].2;
    assert!(elapsed >= BUDGET && elapsed < BUDGET + SLACK, "{elapsed:?}");
    assert!(first.has("sys/class/thermal/thermal_zone0/type"), "what came before is there");
    assert!(lanes.is_stuck(Thermal) && !lanes.is_stuck(Loadavg));
    assert_eq!((lanes.stuck_lanes(), lanes.stuck_queries()), (1, 1));

    for _ in 0..5 {
        let again = ask(&lanes, &[Thermal, Meminfo]).await;
        assert_eq!(again.outcomes(), [(Thermal, Stuck), (Meminfo, Ok)]);
        assert!(again.took < SLACK, "{:?}", again.took);
    }
    assert_eq!((lanes.stuck_lanes(), lanes.stuck_queries()), (1, 1), "no second lane went after the first");

    jam.release();
    soon("the lane", || lanes.stuck_lanes() == 0);
    let healed = ask(&lanes, &[Thermal, Meminfo]).await;
    assert_eq!(healed.outcomes(), [(Thermal, Ok), (Meminfo, Ok)]);
    assert!(healed.has(JAMS[0].1));
    assert!(!lanes.is_stuck(Thermal));
    assert_eq!(lanes.stuck_queries(), 1, "a count goes on counting");
}

#[tokio::test]
async fn when_every_lane_is_stuck_nothing_is_read_until_one_returns() {
    let tree = Tree::with(&[("proc/loadavg", "1"), ("proc/meminfo", "2")]);
    let jams = JAMS.map(|(_, path)| tree.jam(path));
    let lanes = tree.lanes();

    let jammed = JAMS.map(|(query, _)| query);
    let queries = [&[Query::Loadavg][..], &jammed, &[Query::Meminfo]].concat();
    let answer = ask(&lanes, &queries).await;
    let mut expected = vec![(Query::Loadavg, Outcome::Ok)];
    expected.extend(jammed.map(|query| (query, Outcome::TimedOut)));
    expected.push((Query::Meminfo, Outcome::Stuck));
    assert_eq!(answer.outcomes(), expected);
    assert!(answer.took < 4 * (BUDGET + SLACK), "{:?}", answer.took);
    assert!(lanes.all_stuck());

    let refused = ask(&lanes, &[Query::Loadavg, Query::Thermal]).await;
    assert_eq!(refused.outcomes(), [(Query::Loadavg, Outcome::Stuck), (Query::Thermal, Outcome::Stuck)]);
    assert!(refused.took < SLACK, "{:?}", refused.took);

    jams[2].release();
    soon("one lane", || !lanes.all_stuck());
    let some = ask(&lanes, &[Query::Loadavg, JAMS[2].0, JAMS[0].0]).await;
    let [loadavg, released, still] = some.outcomes()[..] else { panic!("{some:?}") };
    assert_eq!((loadavg.1, released.1, still.1), (Outcome::Ok, Outcome::Ok, Outcome::Stuck));

    [0, 1, 3].iter().for_each(|&at: &usize| jams[at].release());
    soon("every lane", || lanes.stuck_lanes() == 0);
    let healed = ask(&lanes, &queries).await;
    assert!(healed.ends.iter().all(|(_, outcome, _)| *outcome == Outcome::Ok), "{healed:?}");
}

#[tokio::test]
async fn what_was_read_is_handed_over_while_a_later_query_sleeps() {
    let tree = Tree::with(&[("proc/loadavg", "1")]);
    let jam = tree.jam(JAMS[0].1);
    let lanes = tree.lanes();
    let mut reading = lanes.begin(vec![Query::Loadavg, Query::Thermal]).await;
    let start = Instant::now();
    let mut answer = Answer::default();
    answer.add(bounded(reading.next()).await.unwrap());
    assert!(start.elapsed() < BUDGET / 2, "{:?}", start.elapsed());
    assert_eq!(answer.outcomes(), [(Query::Loadavg, Outcome::Ok)]);
    let rest = take_all(&mut reading).await;
    assert_eq!(rest.outcomes(), [(Query::Thermal, Outcome::TimedOut)]);
    jam.release();
    soon("the lane", || lanes.stuck_lanes() == 0);
}

/// A tree with some files as long as they may be, and the queries for them.
fn long_files() -> (Tree, Vec<Query>) {
    let long = "x".repeat(4 << 20);
    let paths = ["proc/diskstats", "proc/cpuinfo", "proc/schedstat", "proc/1/net/dev", "proc/1/net/arp"];
    let tree = Tree::with(&paths.map(|path| (path, long.as_str())));
    fs::write(tree.at("proc/loadavg"), "1").unwrap();
    (tree, vec![Query::Diskstats, Query::Cpuinfo, Query::Schedstat, Query::NetDev, Query::Arp])
}

#[tokio::test]
async fn a_reading_that_is_dropped_frees_its_lane() {
    let (tree, queries) = long_files();
    let lanes = tree.lanes();
    for taken in [0, 1, 3, 0, 1, 3, 0, 0, 0] {
        let mut reading = bounded(lanes.begin(queries.clone())).await;
        for _ in 0..taken {
            assert!(bounded(reading.next()).await.is_some());
        }
        drop(reading);
        let next = ask(&lanes, &[Query::Loadavg]).await;
        assert_eq!(next.outcomes(), [(Query::Loadavg, Outcome::Ok)]);
        assert!(next.took < SLACK, "{:?}", next.took);
    }
    assert_eq!((lanes.stuck_lanes(), lanes.stuck_queries()), (0, 0));
}

#[tokio::test]
async fn a_reading_that_is_dropped_while_its_lane_sleeps_is_waited_out() {
    let tree = Tree::with(&[("proc/loadavg", "1")]);
    let jam = tree.jam(JAMS[0].1);
    let lanes = tree.lanes();
    drop(lanes.begin(vec![Query::Thermal]).await);
    let next = ask(&lanes, &[Query::Loadavg, Query::Thermal]).await;
    // The lane may not have begun before it was told to leave.
    match next.outcomes()[1].1 {
        Outcome::Stuck => assert!(next.took >= BUDGET - SLACK, "{:?}", next.took),
        outcome => assert_eq!(outcome, Outcome::TimedOut),
    }
    assert_eq!(next.outcomes()[0].1, Outcome::Ok);
    assert_eq!((lanes.stuck_lanes(), lanes.stuck_queries()), (1, 1));
    jam.release();
    soon("the lane", || lanes.stuck_lanes() == 0);
}

#[tokio::test]
async fn a_begin_that_is_cancelled_leaves_the_earlier_reading_known() {
    let tree = Tree::with(&[("proc/loadavg", "1"), ("sys/class/thermal/thermal_zone0/type", "acpitz")]);
    let jam = tree.jam(JAMS[0].1);
    let lanes = tree.lanes();
    let reading = lanes.begin(vec![Query::Thermal]).await;
    // Its lane is in the kernel by now.
    tokio::time::sleep(Duration::from_millis(200)).await;
    drop(reading);
    let cancelled = tokio::time::timeout(Duration::from_millis(100), lanes.begin(vec![Query::Loadavg])).await;
    assert!(cancelled.is_err(), "one read at a time: it waits for the lane that sleeps");
    let next = ask(&lanes, &[Query::Thermal, Query::Loadavg]).await;
    assert_eq!(
        next.outcomes(),
        [(Query::Thermal, Outcome::Stuck), (Query::Loadavg, Outcome::Ok)],
        "no second lane is sent after the first"
    );
    jam.release();
    soon("the lane", || lanes.stuck_lanes() == 0);
}

#[tokio::test]
async fn a_slow_client_is_waited_for_and_never_buffered_for() {
    let (tree, queries) = long_files();
    let lanes = tree.lanes();
    let mut reading = lanes.begin(queries.clone()).await;
    // Longer than the budget, which is for the kernel and not for clients.
    tokio::time::sleep(BUDGET + Duration::from_millis(500)).await;
    let mut answer = Answer::default();
    let mut batches = 0;
    while let Some(batch) = bounded(reading.next()).await {
        let bytes: usize = batch.iter().map(Part::encoded_len).sum();
        assert!(bytes <= (128 << 10) + 2 * PART_BYTES, "a batch of {bytes} bytes");
        assert!(batch.iter().all(|part| part.encoded_len() <= PART_BYTES + 1024), "a message is small");
        batches += 1;
        if batches % 10 == 0 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        answer.add(batch);
    }
    assert!(answer.ends.iter().all(|(_, outcome, _)| *outcome == Outcome::Ok), "{:?}", answer.ends);
    assert!(answer.ends.iter().all(|(.., elapsed)| *elapsed < BUDGET), "{:?}", answer.ends);
    let bytes: usize = answer.files.iter().map(File::encoded_len).sum();
    assert!(bytes >= queries.len() * (4 << 20));
}

#[test]
fn a_lane_that_cannot_do_what_comes_first_ends_the_start() {
    let tree = Tree::with(&[]);
    let paths = Paths { procfs: tree.at("proc"), sysfs: tree.at("sys"), ..Paths::default() };
    let roots = Roots::open(&paths).unwrap();
    let view = View::find(&roots, Choice::Host).unwrap();
    match Lanes::start(Host::open(roots, view), || Err("the seal does not hold")) {
        Err(StartError::First(error)) => assert_eq!(error, "the seal does not hold"),
        other => panic!("{other:?}"),
    }
}
