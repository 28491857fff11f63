//! Every attack of the table, inside the real programs: with nothing in force, with one layer at a time, and sandboxed. What
//! is seen is compared with the row and with `docs/attacks.md`, which
//! `UPDATE_DOCUMENTS=1 cargo test -p keyhole-attacks --features hostile-code-for-tests` rewrites.

mod document;
mod environment;
mod protocol;

use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use keyhole_attacks::{
    Attack, BROKER_UID, End, Host, L, Layers, OTHER_UID, Process, R, S, U, all, parse_report,
};
use keyhole_policy::Class;
use keyhole_test_support::landlock;
use keyhole_test_support::users::root_is_required;

use environment::pipes::{Zygote, signal, slot};
use environment::{
    Cgroup, ChildProcess, Fixture, Programs, as_init, end as end_of, root, sleeper, tcp_socket,
};

/// What the table and the document were made on; on another kernel the same layer holds more, or less.
const DOCUMENTED_ABI: i64 = 7;
const DOCUMENTED_RELEASE: &str = "6.18.";

/// How much can be checked on the running kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kernel {
    /// Everything: it is the document's.
    Documented,
    /// What seccomp stops, and that nothing goes through a sandboxed process that should not.
    Other,
    /// What seccomp stops.
    WithoutLandlock,
}

impl Kernel {
    /// The kernel that runs. One with less of Landlock than the document's is as good as one without.
    fn running() -> Self {
        let (abi, uname) = (landlock::abi(), rustix::system::uname());
        let release = uname.release().to_string_lossy();
        assert!(
            abi > 0 || !root_is_required(),
            "this kernel has no Landlock: what it stops cannot be tested"
        );
        let kernel = match abi {
            DOCUMENTED_ABI if release.starts_with(DOCUMENTED_RELEASE) => return Self::Documented,
            DOCUMENTED_ABI.. => Self::Other,
            _ => Self::WithoutLandlock,
        };
        println!(
            "Linux {release} with Landlock ABI {abi}, and the table is of {DOCUMENTED_RELEASE} with ABI \
             {DOCUMENTED_ABI}: layer by layer it is not compared, nor is docs/attacks.md"
        );
        kernel
    }
}

/// A way in which the programs are started, and the process in which the attack runs.
#[derive(Debug, Clone, Copy)]
struct Column {
    process: Process,
    uid: u32,
    /// What is left out.
    without: &'static str,
    /// The layers in force of which any one is enough to stop an attack.
    layers: Layers,
}

const fn column(process: Process, uid: u32, without: &'static str, layers: Layers) -> Column {
    Column { process, uid, without, layers }
}

const SECCOMP: &str = "identity,landlock";
const LANDLOCK: &str = "identity,seccomp";
const PROCFS: Process = Process::Reader(Class::Procfs);
const SYSFS: Process = Process::Reader(Class::Sysfs);
const FILES: Process = Process::Reader(Class::Files);
const MOUNTS: Process = Process::Reader(Class::Mounts);
const DEVICES: Process = Process::Reader(Class::Devices);
const PROCESSES: Process = Process::Reader(Class::Processes);

/// Root with every capability under nothing comes first, and shows that the attack is one. What a uid stops does not
/// depend on the program, nor does what Landlock stops where nothing at all may be opened.
#[rustfmt::skip]
const COLUMNS: [Column; 42] = [
    column(Process::Broker,   0,      "identity,landlock,seccomp", 0),
    column(Process::Broker,   BROKER_UID, "landlock,seccomp",          U),
    column(Process::Broker,   0,      "landlock,seccomp",          R),
    column(Process::Broker,   0,      LANDLOCK,                    L),
    column(Process::Broker,   0,      SECCOMP,                     S),
    column(Process::Broker,   BROKER_UID, "",                          S | L | U),
    column(Process::Broker,   0,      "",                          S | L | R),
    column(Process::Broker,   BROKER_UID, "landlock",                  S | U),
    column(Process::Broker,   0,      "landlock",                  S | R),
    column(Process::Exporter, 0,      "identity,landlock,seccomp", 0),
    column(Process::Exporter, BROKER_UID, "landlock,seccomp",          U),
    column(Process::Exporter, 0,      "landlock,seccomp",          R),
    column(Process::Exporter, 0,      LANDLOCK,                    L),
    column(Process::Exporter, 0,      SECCOMP,                     S),
    column(Process::Exporter, BROKER_UID, "",                          S | L | U),
    column(Process::Exporter, 0,      "",                          S | L | R),
    column(Process::Zygote,   0,      LANDLOCK,                    L),
    column(Process::Zygote,   0,      SECCOMP,                     S),
    column(Process::Zygote,   BROKER_UID, "",                          S | L | U),
    column(Process::Zygote,   0,      "",                          S | L | R),
    column(PROCFS,            0,      SECCOMP,                     S),
    column(PROCFS,            BROKER_UID, "",                          S | L | U),
    column(PROCFS,            0,      "",                          S | L | R),
    column(MOUNTS,            0,      SECCOMP,                     S),
    column(MOUNTS,            BROKER_UID, "",                          S | L | U),
    column(MOUNTS,            0,      "",                          S | L | R),
    column(SYSFS,             0,      LANDLOCK,                    L),
    column(SYSFS,             0,      SECCOMP,                     S),
    column(SYSFS,             BROKER_UID, "",                          S | L | U),
    column(SYSFS,             0,      "",                          S | L | R),
    column(DEVICES,           0,      LANDLOCK,                    L),
    column(DEVICES,           0,      SECCOMP,                     S),
    column(DEVICES,           BROKER_UID, "",                          S | L | U),
    column(DEVICES,           0,      "",                          S | L | R),
    column(FILES,             0,      LANDLOCK,                    L),
    column(FILES,             0,      SECCOMP,                     S),
    column(FILES,             BROKER_UID, "",                          S | L | U),
    column(FILES,             0,      "",                          S | L | R),
    column(PROCESSES,         0,      LANDLOCK,                    L),
    column(PROCESSES,         0,      SECCOMP,                     S),
    column(PROCESSES,         BROKER_UID, "",                          S | L | U),
    column(PROCESSES,         0,      "",                          S | L | R),
];

impl Column {
    /// Whether an attack is made in it. What neither seccomp nor Landlock stops is the same for every program, and is tried
    /// in one.
    fn takes(&self, attack: &Attack) -> bool {
        let is_first = self.layers & (S | L) != 0 || self.process == attack.first();
        is_first && attack.is_possible_in(self.process)
    }
}

/// What an attack came to in a process with these layers alone; where that was not tried, in the process that stands for
/// the others, of which it is true too.
fn end(ends: &Ends, process: Process, layers: Layers) -> Option<End> {
    let of = |process| COLUMNS.iter().position(|column| column.process == process && column.layers == layers);
    [process, Process::Broker, Process::Exporter].into_iter().filter_map(of).find_map(|column| ends[column])
}

/// What an attack came to in a sandboxed process, as uid 64646 and as uid 0.
fn sandboxed(ends: &Ends, process: Process) -> [Option<End>; 2] {
    [end(ends, process, S | L | U), end(ends, process, S | L | R)]
}

/// Processes at once; each spends most of its time waiting for namespaces to come and go.
const WORKERS: usize = 8;

/// What an attack came to, by column; none where it cannot be made.
type Ends = [Option<End>; COLUMNS.len()];

/// What all attacks share.
struct Machine {
    programs: Programs,
    cgroup: Cgroup,
    tcp: TcpListener,
    _abstract: UnixListener,
    neighbours: [ChildProcess; 2],
    other_uid_pid: ChildProcess,
}

impl Machine {
    fn new() -> Self {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let name = format!("keyhole-attack-{}", tcp.local_addr().unwrap().port());
        let address = SocketAddr::from_abstract_name(name).unwrap();
        Self {
            programs: Programs::new(),
            cgroup: Cgroup::new(),
            tcp,
            _abstract: UnixListener::bind_addr(&address).unwrap(),
            neighbours: [sleeper(0), sleeper(BROKER_UID)],
            other_uid_pid: sleeper(OTHER_UID),
        }
    }

    /// Makes one attack in one process.
    fn attempt(&self, place: usize, attack: &Attack, column: &Column) -> Result<End, String> {
        let fixture = Fixture::new(column.uid);
        let left_open = match column.process {
            Process::Broker | Process::Exporter => i32::from(attack.on_socket),
            _ => 2,
        };
        let host = Host {
            process: column.process,
            left_open,
            dir: fixture.at(""),
            neighbour: self.neighbours[usize::from(column.uid != 0)].pid().cast_signed(),
            other_uid_pid: self.other_uid_pid.pid().cast_signed(),
            port: self.tcp.local_addr().unwrap().port(),
            cgroup: self.cgroup.0.clone(),
            unfiltered: column.without.contains("seccomp"),
            // What a broker's intruder finds there.
            privileged: [i32::MAX; 2],
            socket_dir: -1,
        };
        let ask = |command: &mut Command| {
            command
                .env("KEYHOLE_ATTACK", place.to_string())
                .env(Host::VARIABLE, host.line())
                .env("KEYHOLE_WITHOUT", column.without);
        };
        let left_open = || {
            if attack.on_socket {
                tcp_socket()
            } else {
                Stdio::from(std::fs::File::open(fixture.at("own")).unwrap())
            }
        };
        let start =
            |slots: &[usize]| Zygote::start(&self.programs, &fixture, column.uid, slots, left_open(), ask);
        let (came_to_it, killed, log) = match column.process {
            Process::Broker => {
                let mut command = self.programs.broker(&fixture, column.uid);
                // What its readers are asked does not matter.
                command.arg("--queries=default");
                ask(&mut command);
                let status = end_of(&mut ChildProcess::spawn(&mut command));
                (fixture.reported(), status.signal(), fixture.log())
            }
            Process::Exporter => {
                let _broker = fixture.listen();
                let mut command = self.programs.exporter(&fixture, column.uid);
                ask(&mut command);
                let status = end_of(&mut ChildProcess::spawn(&mut command));
                (fixture.listening().is_some(), status.signal(), fixture.exporter_log())
            }
            Process::Zygote => {
                let mut zygote = start(&[]);
                let greeted = zygote.report().is_some();
                let status = zygote.end();
                (greeted, status.signal(), zygote.reports().rest())
            }
            Process::Reader(class) => {
                let slot = slot(class);
                let mut zygote = start(&[slot]);
                zygote.order(slot);
                let ended = zygote.next_end().map_err(|status| format!("the zygote: {status}"))?;
                let answers = zygote.answers(slot);
                let hello = answers.frame(Duration::ZERO);
                let greeted = matches!(hello, Some((keyhole_policy::pipes::FrameKind::Hello, ..)));
                let log = if greeted { answers.rest() } else { format!("{hello:?}") };
                zygote.leave();
                (greeted, signal(ended.1), log)
            }
        };
        match (killed, parse_report(&log)) {
            _ if !came_to_it => Err(format!("it did not come to the attack: {killed:?}\n{log}")),
            (Some(libc::SIGSYS), None) => Ok(End::Killed),
            (None, Some(end)) => Ok(end),
            _ => Err(format!("{killed:?}\n{log}")),
        }
    }

    /// Makes every attack in every column, a few at a time; columns of one attack follow each other, since they share
    /// their victims.
    fn attempt_all(&self) -> Result<Vec<(&'static Attack, Ends)>, String> {
        let attacks: Vec<_> = all().collect();
        let next = AtomicUsize::new(0);
        let done = Mutex::new(Vec::new());
        let work = || {
            loop {
                let place = next.fetch_add(1, Ordering::Relaxed);
                let Some(attack) = attacks.get(place) else { return };
                let ends = COLUMNS.map(|column| {
                    let end = column.takes(attack).then(|| self.attempt(place, attack, &column)).transpose();
                    end.map_err(|why| format!("{}, {column:?}: {why}", attack.what))
                });
                done.lock().unwrap().push((place, ends));
            }
        };
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    environment::reap_orphans();
                    std::thread::sleep(Duration::from_millis(500));
                }
            });
            let workers: Vec<_> = (0..WORKERS).map(|_| scope.spawn(work)).collect();
            let ended: Vec<_> = workers.into_iter().map(|worker| worker.join().is_ok()).collect();
            over.store(true, Ordering::Relaxed);
            assert!(ended.into_iter().all(|ended| ended));
        });
        let mut done = done.into_inner().unwrap();
        done.sort_unstable_by_key(|(place, _)| *place);
        done.into_iter()
            .map(|(place, ends)| {
                let ends: Result<Vec<Option<End>>, String> = ends.into_iter().collect();
                Ok((attacks[place], ends?.try_into().unwrap()))
            })
            .collect()
    }
}

/// Whether the kernel has what an attack is about; what says no to root with every capability is not a layer.
fn is_here(ends: &Ends) -> bool {
    const NOT_HERE: [i32; 6] = [
        libc::ENOSYS,
        libc::ENOENT,
        libc::EAFNOSUPPORT,
        libc::EPROTONOSUPPORT,
        libc::EOPNOTSUPP,
        libc::ENXIO,
    ];
    !matches!(end(ends, Process::Broker, 0), Some(End::Refused(errno)) if NOT_HERE.contains(&errno))
}

/// What stopped an attack in a process when it was all that was in force; only a kill says anything of what is not here.
fn stopped_by(ends: &Ends, process: Process) -> Layers {
    let stopped = [S, L, U, R].into_iter().filter(|layer| match end(ends, process, *layer) {
        end if is_here(ends) => end != Some(End::Through),
        end => end == Some(End::Killed),
    });
    stopped.sum()
}

/// What is wrong with a row, if what was seen is right.
fn wrong(attack: &Attack, ends: &Ends, kernel: Kernel) -> Vec<String> {
    let mut wrong = Vec::new();
    let seen = stopped_by(ends, attack.first());
    if seen & S != attack.stopped_by & S {
        wrong.push(format!("seccomp alone: {:?}", end(ends, attack.first(), S)));
    }
    if kernel == Kernel::WithoutLandlock || !is_here(ends) {
        return wrong;
    }
    for process in Process::ALL.into_iter().filter(|process| attack.is_possible_in(*process)) {
        let through = sandboxed(ends, process).contains(&Some(End::Through));
        let accepted = attack.accepted(process);
        // A newer kernel may stop more than is documented.
        if through != accepted.is_some() && (through || kernel == Kernel::Documented) {
            wrong
                .push(format!("sandboxed {}: goes through {through}, residual {accepted:?}", process.name()));
        }
    }
    if kernel != Kernel::Documented {
        return wrong;
    }
    let with_nothing = end(ends, Process::Broker, 0);
    if with_nothing != Some(End::Through) {
        wrong.push(format!("it is no attack: with nothing in force it came to {with_nothing:?}"));
    }
    if seen != attack.stopped_by {
        wrong.push(format!("the row says {:#06b}, seen was {seen:#06b}", attack.stopped_by));
    }
    for (column, end) in COLUMNS.iter().zip(ends) {
        let alone = stopped_by(ends, column.process);
        if column.layers & alone != 0
            && attack.accepted(column.process).is_none()
            && *end == Some(End::Through)
        {
            wrong.push(format!("{column:?} lets through what a part of it stops alone"));
        }
    }
    wrong
}

#[test]
fn every_attack_is_stopped_by_the_layers_that_its_row_names() {
    if root() {
        as_init("every_attack_is_stopped_by_the_layers_that_its_row_names", check_every_row);
    }
}

fn check_every_row() {
    let kernel = Kernel::running();
    let ends = Machine::new().attempt_all().unwrap_or_else(|why| panic!("{why}"));
    let wrong: Vec<_> = ends
        .iter()
        .filter_map(|(attack, ends)| {
            let wrong = wrong(attack, ends, kernel);
            (!wrong.is_empty()).then(|| format!("{}: {}\n    {ends:?}", attack.what, wrong.join("; ")))
        })
        .collect();
    assert!(wrong.is_empty(), "{} rows are wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert!(ends.len() >= 60);
    if kernel == Kernel::Documented {
        document::hold(&ends);
    }
}

#[test]
fn every_row_has_a_description_of_its_own() {
    let mut words: Vec<_> = all().map(|attack| attack.what).collect();
    words.sort_unstable();
    assert!(words.windows(2).all(|pair| pair[0] != pair[1]), "{words:?}");
}
