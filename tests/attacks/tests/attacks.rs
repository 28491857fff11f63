//! Every attack of the table, inside the real broker: with nothing in force, with one layer at a time, and sealed. What
//! is seen is held against the row and against `docs/attacks.md`, which
//! `UPDATE_DOCUMENTS=1 cargo test -p keyhole-attacks --features hostile-code-for-tests` rewrites.

mod document;
mod stage;

use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::os::unix::process::ExitStatusExt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use keyhole_attacks::{Attack, BROKER, End, Host, L, Layers, R, S, STRANGER, U, all, said};

use stage::{Cgroup, Ground, Program, Running, alone, landlock_abi, root, sleeper};

/// What the table and the document were made on; on another kernel the same layer holds more, or less.
const DOCUMENTED_ABI: i64 = 7;
const DOCUMENTED_RELEASE: &str = "6.18.";

/// How much can be said on the kernel that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kernel {
    /// Everything: it is the document's.
    Documented,
    /// What seccomp stops, and that nothing goes through the sealed broker that should not.
    Other,
    /// What seccomp stops.
    WithoutLandlock,
}

impl Kernel {
    /// The kernel that runs. One with less of Landlock than the document's is as good as one without.
    fn running() -> Self {
        let (abi, uname) = (landlock_abi(), rustix::system::uname());
        let release = uname.release().to_string_lossy();
        assert!(abi > 0 || !stage::required(), "this kernel has no Landlock: what it stops cannot be tested");
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

/// A way in which the broker is started.
#[derive(Debug, Clone, Copy)]
struct Column {
    uid: u32,
    /// What is left out.
    without: &'static str,
    /// Where the attack runs.
    thread: &'static str,
    /// The layers in force of which any one is enough to stop an attack.
    layers: Layers,
}

const fn column(uid: u32, without: &'static str, layers: Layers) -> Column {
    Column { uid, without, thread: "main", layers }
}

/// Root with every capability under nothing comes first, and shows that the attack is one.
#[rustfmt::skip]
const COLUMNS: [Column; 11] = [
    column(0,      "identity,landlock,seccomp", 0),
    column(0,      "identity,landlock",         S),
    column(0,      "identity,seccomp",          L),
    column(BROKER, "landlock,seccomp",          U),
    column(0,      "landlock,seccomp",          R),
    column(BROKER, "",                          S | L | U),
    column(0,      "",                          S | L | R),
    column(BROKER, "landlock",                  S | U),
    column(0,      "landlock",                  S | R),
    Column { thread: "lane", ..column(BROKER, "", S | L | U) },
    Column { thread: "lane", ..column(0,      "", S | L | R) },
];
const NOTHING: usize = 0;
const ALONE: std::ops::Range<usize> = 1..5;
const SEALED: std::ops::Range<usize> = 5..7;
const SEALED_LANES: std::ops::Range<usize> = 9..11;

/// Brokers at once; each spends most of its time waiting for namespaces to come and go.
const WORKERS: usize = 8;

/// What an attack came to, by column.
type Ends = [End; COLUMNS.len()];

/// What all attacks share.
struct Machine {
    program: Program,
    cgroup: Cgroup,
    tcp: TcpListener,
    _abstract: UnixListener,
    neighbours: [Running; 2],
    stranger: Running,
}

impl Machine {
    fn new() -> Self {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let name = format!("keyhole-attack-{}", tcp.local_addr().unwrap().port());
        let address = SocketAddr::from_abstract_name(name).unwrap();
        Self {
            program: Program::new(),
            cgroup: Cgroup::new(),
            tcp,
            _abstract: UnixListener::bind_addr(&address).unwrap(),
            neighbours: [sleeper(0), sleeper(BROKER)],
            stranger: sleeper(STRANGER),
        }
    }

    /// Makes one attack in one broker.
    fn attempt(&self, place: usize, attack: &Attack, column: &Column) -> Result<End, String> {
        let ground = Ground::new(column.uid);
        let host = Host {
            dir: ground.at(""),
            neighbour: self.neighbours[usize::from(column.uid != 0)].pid(),
            stranger: self.stranger.pid(),
            port: self.tcp.local_addr().unwrap().port(),
            cgroup: self.cgroup.0.clone(),
        };
        let mut command = self.program.command(&ground, column.uid);
        command
            .args(attack.flag)
            .env("KEYHOLE_ATTACK", place.to_string())
            .env(Host::VARIABLE, host.line())
            .env("KEYHOLE_THREAD", column.thread)
            .env("KEYHOLE_WITHOUT", column.without);
        let status = Running(command.spawn().unwrap()).end();
        let log = ground.log();
        match (status.signal(), said(&log)) {
            _ if !ground.reported() => Err(format!("it did not come to the attack: {status}\n{log}")),
            (Some(libc::SIGSYS), None) => Ok(End::Killed),
            (None, Some(end)) => Ok(end),
            _ => Err(format!("{status}\n{log}")),
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
                    self.attempt(place, attack, &column)
                        .map_err(|why| format!("{}, {column:?}: {why}", attack.what))
                });
                done.lock().unwrap().push((place, ends));
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..WORKERS {
                scope.spawn(work);
            }
        });
        let mut done = done.into_inner().unwrap();
        done.sort_unstable_by_key(|(place, _)| *place);
        done.into_iter()
            .map(|(place, ends)| {
                let ends: Result<Vec<End>, String> = ends.into_iter().collect();
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
    !matches!(ends[NOTHING], End::Refused(errno) if NOT_HERE.contains(&errno))
}

/// What stopped an attack when it was all that was in force; only a kill tells anything of what is not here.
fn stopped_by(ends: &Ends) -> Layers {
    let stopped = ALONE.filter(|column| match is_here(ends) {
        true => ends[*column] != End::Through,
        false => ends[*column] == End::Killed,
    });
    stopped.map(|column| COLUMNS[column].layers).sum()
}

/// What is wrong with a row, if what was seen is right.
fn wrong(attack: &Attack, ends: &Ends, kernel: Kernel) -> Vec<String> {
    let mut wrong = Vec::new();
    let seen = stopped_by(ends);
    if seen & S != attack.stopped_by & S {
        wrong.push(format!("seccomp alone: {:?}", ends[1]));
    }
    if kernel == Kernel::WithoutLandlock || !is_here(ends) {
        return wrong;
    }
    let through = SEALED.filter(|column| ends[*column] == End::Through).count();
    if (through > 0) != attack.residual.is_some() {
        wrong.push(format!("sealed brokers let it through: {through}; its residual: {:?}", attack.residual));
    }
    for (main, lane) in SEALED.zip(SEALED_LANES) {
        if ends[main] != ends[lane] {
            wrong.push(format!("on the main thread {:?}, on a lane {:?}", ends[main], ends[lane]));
        }
    }
    if kernel != Kernel::Documented {
        return wrong;
    }
    if ends[NOTHING] != End::Through {
        wrong.push(format!("it is no attack: with nothing in force it came to {:?}", ends[NOTHING]));
    }
    if seen != attack.stopped_by {
        wrong.push(format!("the row says {:#06b}, seen was {seen:#06b}", attack.stopped_by));
    }
    for (column, end) in COLUMNS.iter().zip(ends) {
        let stopped = column.layers & attack.stopped_by != 0 && attack.residual.is_none();
        if stopped && *end == End::Through {
            wrong.push(format!("{column:?} lets through what a part of it stops alone"));
        }
    }
    wrong
}

#[test]
fn every_attack_is_stopped_by_the_layers_that_its_row_names() {
    if root() {
        alone("every_attack_is_stopped_by_the_layers_that_its_row_names", hold_every_row);
    }
}

fn hold_every_row() {
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
fn every_row_has_words_of_its_own() {
    let mut words: Vec<_> = all().map(|attack| attack.what).collect();
    words.sort_unstable();
    assert!(words.windows(2).all(|pair| pair[0] != pair[1]), "{words:?}");
}
