//! Mounts that hang.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{CWD, Mode, mkfifoat};
use rustix::process::Signal;

use crate::namespaces::Namespaces;
use crate::success;
use keyhole_test_support::exposition::{Exposition, Sample};
use keyhole_test_support::usage::Usage;
use keyhole_test_support::{
    BROKER_UID, Broker, Environment, Exporter, flag, root_for, run_to_end, wait_until,
};

/// A scrape that must succeed within `limit`.
fn scrape_within(exporter: &Exporter, limit: Duration) -> Exposition {
    let answer = exporter.metrics("10");
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(answer.elapsed < limit, "{:?}", answer.elapsed);
    let scrape = Exposition::parse(&answer.body).unwrap();
    for collector in ["cpu", "diskstats", "filesystem", "loadavg", "meminfo", "netdev", "stat"] {
        assert_eq!(success(&scrape, collector), Some(1.0), "{collector}");
    }
    scrape
}

/// What a scrape has of a mount: whether it is in error and why, and its size.
fn mount_status(scrape: &Exposition, mount: &Path) -> (f64, String, Option<f64>) {
    let mount = mount.to_str().unwrap();
    let of_mount = |sample: &&_| -> bool {
        let sample: &Sample = sample;
        sample.labels["mountpoint"] == mount
    };
    let errors: Vec<_> = scrape.samples("node_filesystem_device_error").filter(of_mount).collect();
    let [error] = errors[..] else { panic!("{mount}: {errors:?}") };
    let size = scrape.samples("node_filesystem_size_bytes").find(of_mount).map(|sample| sample.value);
    (error.value, error.labels["device_error"].clone(), size)
}

/// How often the broker has found a reader stuck.
fn stuck(broker: &Broker) -> usize {
    broker.process.log().matches("its reader is stuck").count()
}

/// The flags of a broker that asks every mount of the namespaces.
fn with_rootfs(namespaces: &Namespaces) -> Vec<OsString> {
    [namespaces.flags(), vec!["--path.rootfs=/".into()]].concat()
}

/// Waits until as many stuck readers have returned from the kernel.
fn returned(broker: &Broker, readers: usize) {
    wait_until("the readers return", || {
        broker.process.log().matches("the stuck reader has returned").count() == readers
    });
}

/// Before Prometheus gives up, and after three readers in turn have hung.
const WHOLE: Duration = Duration::from_secs(9);
const LATE: Duration = Duration::from_secs(4);
/// Less than a query may take before its reader is stuck.
const AT_ONCE: Duration = Duration::from_millis(1900);
/// The size that the servers of these tests report.
const FUSE_SIZE: Option<f64> = Some(1000.0 * 4096.0);

#[test]
fn a_hung_mount_affects_its_type_and_the_mounts_below_it_and_no_other_file_system() {
    if !root_for("mount a file system in user space") {
        return;
    }
    let environment = Environment::new();
    let namespaces = Namespaces::new(&environment, "", "mount -t tmpfs -o size=1m before $dir/mnt");
    let [one, two, three, good] =
        ["one", "two", "three", "good"].map(|name| namespaces.path("mnt").join(name));
    namespaces.run("mkdir mnt/good");
    let servers = [("fuse.one", &one), ("fuse.two", &two), ("fuse.three", &three)]
        .map(|(kind, directory)| namespaces.fuse(kind, directory));
    // Later in the mount table than those that will hang.
    namespaces.run("mount -t tmpfs -o size=1m after mnt/good");
    let flags = with_rootfs(&namespaces);
    let broker = environment.start_broker_by(&namespaces.starter(), &flags);
    let exporter = environment.start_exporter::<&str>(&[]);
    let healthy = |scrape: &Exposition, mount: &Path, size: Option<f64>| {
        assert_eq!(mount_status(scrape, mount), (0.0, String::new(), size), "{}", mount.display());
    };
    let hangs = |scrape: &Exposition, mount: &Path| {
        assert_eq!(
            mount_status(scrape, mount),
            (1.0, "mountpoint timeout".into(), None),
            "{}",
            mount.display()
        );
    };
    let tmpfs_size = Some(1_048_576.0);

    let scrape = scrape_within(&exporter, LATE);
    [&one, &two, &three].iter().for_each(|mount| healthy(&scrape, mount, FUSE_SIZE));
    healthy(&scrape, &good, tmpfs_size);
    let before = Usage::measure(broker.process.pid());

    servers[0].signal(Signal::STOP);
    // The scrape that meets it is slow and complete; the next one is fast.
    for limit in [LATE, AT_ONCE, AT_ONCE] {
        let scrape = scrape_within(&exporter, limit);
        hangs(&scrape, &one);
        [&two, &three].iter().for_each(|mount| healthy(&scrape, mount, FUSE_SIZE));
        healthy(&scrape, &good, tmpfs_size);
        healthy(&scrape, &namespaces.path("mnt"), tmpfs_size);
    }
    servers[1].signal(Signal::STOP);
    for limit in [LATE, AT_ONCE] {
        let scrape = scrape_within(&exporter, limit);
        [&one, &two].iter().for_each(|mount| hangs(&scrape, mount));
        healthy(&scrape, &three, FUSE_SIZE);
        healthy(&scrape, &good, tmpfs_size);
    }
    assert_eq!(stuck(&broker), 2, "{}", broker.process.log());

    servers.iter().for_each(|server| server.signal(Signal::CONT));
    returned(&broker, 2);
    let scrape = scrape_within(&exporter, AT_ONCE);
    [&one, &two, &three].iter().for_each(|mount| healthy(&scrape, mount, FUSE_SIZE));
    healthy(&scrape, &good, tmpfs_size);
    wait_until("descriptors are closed and processes have ended", || {
        let after = Usage::measure(broker.process.pid());
        (after.descriptors, after.threads) == (before.descriptors, before.threads)
    });
}

#[test]
fn mounts_that_hang_in_many_ways_leave_all_that_is_no_mount() {
    if !root_for("mount a file system in user space") {
        return;
    }
    let environment = Environment::new();
    let namespaces = Namespaces::new(&environment, "", "");
    let kinds = ["fuse.a", "fuse.b", "fuse.c", "fuse.d", "fuse.e"];
    let servers = kinds.map(|kind| namespaces.fuse(kind, &namespaces.path("mnt").join(kind)));
    let flags = with_rootfs(&namespaces);
    let broker = environment.start_broker_by(&namespaces.starter(), &flags);
    let exporter = environment.start_exporter::<&str>(&[]);
    servers.iter().for_each(|server| server.signal(Signal::STOP));
    for limit in [Duration::from_secs(8), AT_ONCE, AT_ONCE] {
        let scrape = scrape_within(&exporter, limit);
        for (at, kind) in kinds.into_iter().enumerate() {
            let why = if at < 3 { TIMEOUT } else { TOO_MANY };
            assert_eq!(mount_status(&scrape, &namespaces.path("mnt").join(kind)), not_known(why), "{kind}");
        }
    }
    assert_eq!(stuck(&broker), 3, "one more could be started");
    servers.iter().for_each(|server| server.signal(Signal::CONT));
    returned(&broker, 3);
    let scrape = scrape_within(&exporter, AT_ONCE);
    for kind in kinds {
        assert_eq!(mount_status(&scrape, &namespaces.path("mnt").join(kind)).0, 0.0);
    }
}

/// Shows `/` also where a container has it on an overlay.
const EVERY_TYPE: [&str; 1] = ["--collector.filesystem.fs-types-exclude=^proc$"];

/// `/` is what a scrape must never be without: it is asked before every file system that may hang.
fn has_root(scrape: &Exposition) {
    let mut sizes = scrape.samples("node_filesystem_size_bytes");
    assert!(sizes.any(|size| size.labels["mountpoint"] == "/" && size.value > 0.0), "no size of /");
}

/// Scrapes ten times while `dead` mounts hang: `/` is in each.
fn ten_scrapes_have_root(exporter: &Exporter, dead: &[&Path]) {
    let dead: Vec<_> = dead.iter().map(|mount| (mount.to_path_buf(), TIMEOUT)).collect();
    ten_scrapes(exporter, &dead, &[]);
}

/// The same, with the reason of each mount that hangs, and the sizes of those that do not.
fn ten_scrapes(exporter: &Exporter, dead: &[(PathBuf, &str)], alive: &[(PathBuf, Option<f64>)]) {
    for round in 0..10 {
        // Prometheus makes pauses, too: scrapes without any are slowed down by the broker's limits.
        std::thread::sleep(Duration::from_millis(200));
        let scrape = scrape_within(exporter, WHOLE);
        has_root(&scrape);
        for (mount, why) in dead {
            assert_eq!(mount_status(&scrape, mount), not_known(why), "{} in scrape {round}", mount.display());
        }
        for (mount, size) in alive {
            let known = (0.0, String::new(), *size);
            assert_eq!(mount_status(&scrape, mount), known, "{} in scrape {round}", mount.display());
        }
    }
}

/// Why the numbers of a mount are not known: it was asked, or it was not.
const TIMEOUT: &str = "mountpoint timeout";
const SERVER: &str = "not asked: its server hangs";
const TOO_MANY: &str = "not asked: too many mounts hang";

fn not_known(why: &str) -> (f64, String, Option<f64>) {
    (1.0, why.to_owned(), None)
}

/// An NFS server and a FUSE server that died on the same day. Many kernels that run tests have no NFS client: a FUSE
/// file system of another type stands for it. To a reader both are mounts of a type whose servers may be away, and each
/// type is asked by itself.
#[test]
fn dead_nfs_and_fuse_mounts_together_never_affect_the_root_file_system() {
    if !root_for("mount a file system in user space") {
        return;
    }
    let environment = Environment::new();
    let namespaces = Namespaces::new(&environment, "", "");
    let [nfs, fuse, alive] = ["nfs", "fuse", "alive"].map(|name| namespaces.path("mnt").join(name));
    let servers = [("fuse.nfs-stand-in", &nfs), ("fuse.dead", &fuse), ("fuse.alive", &alive)]
        .map(|(kind, directory)| namespaces.fuse(kind, directory));
    // As bind mounts make them: the root's own file system comes again, after those that hang.
    namespaces.run("mkdir mnt/after; mount -t tmpfs -o size=1m after mnt/after");
    let flags = with_rootfs(&namespaces);
    let broker = environment.start_broker_by(&namespaces.starter(), &flags);
    let exporter = environment.start_exporter(&EVERY_TYPE);
    has_root(&scrape_within(&exporter, LATE));
    servers[..2].iter().for_each(|server| server.signal(Signal::STOP));
    ten_scrapes_have_root(&exporter, &[&nfs, &fuse]);
    let scrape = scrape_within(&exporter, AT_ONCE);
    assert_eq!(mount_status(&scrape, &alive), (0.0, String::new(), FUSE_SIZE));
    assert_eq!(
        mount_status(&scrape, &namespaces.path("mnt").join("after")),
        (0.0, String::new(), Some(1_048_576.0))
    );
    assert_eq!(stuck(&broker), 2, "a reader for each type");

    servers[..2].iter().for_each(|server| server.signal(Signal::CONT));
    returned(&broker, 2);
    let scrape = scrape_within(&exporter, AT_ONCE);
    [&nfs, &fuse, &alive].iter().for_each(|mount| assert_eq!(mount_status(&scrape, mount).2, FUSE_SIZE));
    has_root(&scrape);
}

/// A fifo that nobody writes to is the attribute; its tree is a sysfs of the broker's.
#[test]
fn a_dead_mount_and_a_hanging_attribute_together_affect_nothing_else() {
    if !root_for("mount a file system in user space") {
        return;
    }
    let environment = Environment::new();
    let namespaces = Namespaces::new(&environment, "", "");
    let dead = namespaces.path("mnt").join("dead");
    let server = namespaces.fuse("fuse.dead", &dead);
    let zones = environment.dir().join("sysfs/class/thermal");
    for (zone, temp) in [("thermal_zone0", None), ("thermal_zone1", Some("31000\n"))] {
        let zone = zones.join(zone);
        fs::create_dir_all(&zone).unwrap();
        fs::write(zone.join("type"), "acpitz\n").unwrap();
        match temp {
            Some(temp) => fs::write(zone.join("temp"), temp).unwrap(),
            None => mkfifoat(CWD, zone.join("temp"), Mode::from_raw_mode(0o644)).unwrap(),
        }
    }
    let mut flags = with_rootfs(&namespaces);
    flags[1] = flag("--path.sysfs=", environment.dir().join("sysfs"));
    server.signal(Signal::STOP);
    let broker = environment.start_broker_by(&namespaces.starter(), &flags);
    let exporter = environment.start_exporter(&EVERY_TYPE);
    ten_scrapes_have_root(&exporter, &[&dead]);
    let scrape = scrape_within(&exporter, AT_ONCE);
    let temperature = |zone| scrape.value("node_thermal_zone_temp", &[("zone", zone)]);
    assert_eq!((temperature("0"), temperature("1")), (None, Some(31.0)));
    let counts = environment.start_exporter::<&str>(&[]).scrape();
    for class in ["devices", "mounts"] {
        assert_eq!(counts.value("keyhole_broker_reader_stuck", &[("reader", class)]), Some(1.0), "{class}");
    }
    server.signal(Signal::CONT);
    returned(&broker, 1);
    assert_eq!(mount_status(&scrape_within(&exporter, AT_ONCE), &dead).2, FUSE_SIZE);
}

const TMPFS_SIZE: Option<f64> = Some(1_048_576.0);

/// A server of NFS v3 and v4 and of sshfs with fifty mounts, and a program with two more; what is mounted below and bound
/// to another place. All of it costs one reader a server.
#[test]
fn a_dead_server_blocks_one_reader_for_any_types_and_any_number_of_mounts() {
    if !root_for("mount a file system in user space") {
        return;
    }
    let environment = Environment::new();
    let namespaces = Namespaces::new(&environment, "", "");
    let at = |name: &str| namespaces.path("mnt").join(name);
    let many: Vec<PathBuf> = (0..50).map(|number| at(&format!("v3-{number}"))).collect();
    let v3 = namespaces.fuse_at("fuse.nfs=nas:/export/{}", &many);
    let v4 = namespaces.fuse_at("fuse.nfs4=NAS:/{}", &[at("v4-a"), at("v4-b")]);
    let sshfs = namespaces.fuse_at("fuse.sshfs=nas:{}", &[at("home")]);
    let program = namespaces.fuse_at("fuse.program=program", &[at("p-a"), at("p-b")]);
    let _alive = namespaces.fuse_at("fuse.nfs4=other:/{}", &[at("alive")]);
    namespaces.run(
        "mkdir mnt/bind mnt/after
         mount --bind mnt/v4-a mnt/bind
         mount -t tmpfs -o size=1m below mnt/v3-0/below
         mount -t tmpfs -o size=1m after mnt/after",
    );
    let flags = with_rootfs(&namespaces);
    let broker = environment.start_broker_by(&namespaces.starter(), &flags);
    let exporter = environment.start_exporter(&EVERY_TYPE);
    let scrape = scrape_within(&exporter, WHOLE);
    has_root(&scrape);
    let mounts = [many.clone(), ["v4-a", "v4-b", "home", "p-a", "p-b", "bind"].map(at).to_vec()].concat();
    let all_healthy = |scrape: &Exposition| {
        for mount in &mounts {
            assert_eq!(mount_status(scrape, mount), (0.0, String::new(), FUSE_SIZE), "{}", mount.display());
        }
        assert_eq!(mount_status(scrape, &at("v3-0/below")), (0.0, String::new(), TMPFS_SIZE));
    };
    all_healthy(&scrape);

    let servers = [&v3, &v4, &sshfs, &program];
    servers.iter().for_each(|server| server.signal(Signal::STOP));
    let mut dead: Vec<_> = mounts.iter().map(|mount| (mount.clone(), SERVER)).collect();
    dead.push((at("v3-0/below"), SERVER));
    for (mount, why) in &mut dead {
        if [at("v3-0"), at("p-a")].contains(mount) {
            *why = TIMEOUT;
        }
    }
    ten_scrapes(&exporter, &dead, &[(at("alive"), FUSE_SIZE), (at("after"), TMPFS_SIZE)]);
    let stuck = stuck(&broker);
    assert_eq!(stuck, 2, "one for the server, one for the program:\n{}", broker.process.log());

    servers.iter().for_each(|server| server.signal(Signal::CONT));
    returned(&broker, 2);
    all_healthy(&scrape_within(&exporter, WHOLE));
}

/// Six servers die at once; `/`, what is local, and what is local below a dead mount.
#[test]
fn servers_that_die_at_once_hide_no_local_file_system_and_all_recover() {
    if !root_for("mount a file system in user space") {
        return;
    }
    let environment = Environment::new();
    let namespaces = Namespaces::new(&environment, "", "");
    let at = |name: &str| namespaces.path("mnt").join(name);
    let names = ["a", "b", "c", "d", "e", "f"];
    // Local first, also where it comes last or lies on a place where a server's mount was.
    let servers = names.map(|name| namespaces.fuse(&format!("fuse.nfs4={name}:/"), &at(name)));
    namespaces.run(
        "for name in a b c d e f; do mkdir mnt/local-$name; mount -t tmpfs -o size=1m x mnt/local-$name; done
         mount -t tmpfs -o size=1m below mnt/e/below",
    );
    let flags = with_rootfs(&namespaces);
    let broker = environment.start_broker_by(&namespaces.starter(), &flags);
    let exporter = environment.start_exporter(&EVERY_TYPE);
    has_root(&scrape_within(&exporter, WHOLE));
    for round in 0..2 {
        servers.iter().for_each(|server| server.signal(Signal::STOP));
        let why = |at: usize| if at < 3 { TIMEOUT } else { TOO_MANY };
        let mut dead: Vec<_> =
            names.iter().enumerate().map(|(number, name)| (at(name), why(number))).collect();
        dead.push((at("e/below"), TOO_MANY));
        let local: Vec<_> = names.iter().map(|name| (at(&format!("local-{name}")), TMPFS_SIZE)).collect();
        ten_scrapes(&exporter, &dead, &local);
        let stuck = stuck(&broker);
        assert_eq!(stuck, 3 * (round + 1), "{}", broker.process.log());
        let returned_before = broker.process.log().matches("the stuck reader has returned").count();
        servers.iter().for_each(|server| server.signal(Signal::CONT));
        returned(&broker, returned_before + 3);
        let scrape = scrape_within(&exporter, WHOLE);
        names.iter().for_each(|name| assert_eq!(mount_status(&scrape, &at(name)).2, FUSE_SIZE, "{name}"));
        assert_eq!(mount_status(&scrape, &at("e/below")).2, TMPFS_SIZE);
    }
}

/// An automounter that never answers is not asked to mount; what it has mounted hangs with its server alone, and what is
/// stacked on that by itself.
#[test]
fn an_automount_is_not_triggered_and_hangs_with_its_own_server() {
    if !root_for("mount a file system in user space") {
        return;
    }
    let environment = Environment::new();
    let namespaces = Namespaces::new(&environment, "", "");
    let at = |name: &str| namespaces.path("mnt").join(name);
    let _idle = namespaces.fuse_at("autofs", &[at("idle")]);
    let dead = namespaces.fuse_at("autofs+fuse.nfs4=dead:/", &[at("dead")]);
    let _alive = namespaces.fuse_at("autofs+fuse.nfs4=alive:/", &[at("alive")]);
    namespaces.run(
        "mkdir mnt/lower mnt/stacked; mount -t overlay -o lowerdir=mnt/dead:mnt/lower stacked mnt/stacked",
    );
    let flags = with_rootfs(&namespaces);
    let broker = environment.start_broker_by(&namespaces.starter(), &flags);
    let exporter = environment.start_exporter(&EVERY_TYPE);
    dead.signal(Signal::STOP);
    ten_scrapes(
        &exporter,
        &[(at("dead"), TIMEOUT), (at("stacked"), TIMEOUT)],
        &[(at("alive"), FUSE_SIZE), (at("idle"), Some(0.0))],
    );
    assert_eq!(stuck(&broker), 2, "{}", broker.process.log());
    dead.signal(Signal::CONT);
    returned(&broker, 2);
    let scrape = scrape_within(&exporter, WHOLE);
    ["dead", "stacked"]
        .iter()
        .for_each(|name| assert_eq!(mount_status(&scrape, &at(name)).2, FUSE_SIZE, "{name}"));
}

/// Without a host root: six probe directories on dead servers, before one on a local file system, and a broker that is
/// started while they hang.
#[test]
fn probe_directories_on_dead_servers_leave_those_on_local_file_systems() {
    if !root_for("mount a file system in user space") {
        return;
    }
    let environment = Environment::new();
    let namespaces = Namespaces::new(&environment, "", "");
    let at = |name: &str| namespaces.path("mnt").join(name);
    let names = ["a", "b", "c", "d", "e", "f"];
    let servers = names.map(|name| namespaces.fuse(&format!("fuse.nfs4={name}:/"), &at(name)));
    let same = namespaces.fuse("fuse.nfs=a:/other", &at("same"));
    namespaces.run("mkdir mnt/local; mount -t tmpfs -o size=1m local mnt/local; mkdir mnt/local/probe");
    let mut flags = namespaces.flags();
    let directories = ["a/probe", "same", "b/probe", "c", "d", "e", "f", "local/probe"];
    flags.extend(directories.map(|name| flag("--filesystem.probe-directory=", at(name))));
    let all_dead = |exporter: &Exporter| {
        for round in 0..10 {
            let scrape = scrape_within(exporter, WHOLE);
            assert_eq!(
                mount_status(&scrape, &at("local")),
                (0.0, String::new(), TMPFS_SIZE),
                "in scrape {round}"
            );
            for (mount, why) in [
                ("a", TIMEOUT),
                ("same", SERVER),
                ("b", TIMEOUT),
                ("c", TIMEOUT),
                ("d", TOO_MANY),
                ("f", TOO_MANY),
            ] {
                assert_eq!(mount_status(&scrape, &at(mount)), not_known(why), "{mount} in scrape {round}");
            }
        }
    };
    let stop = |signal| servers.iter().chain([&same]).for_each(|server| server.signal(signal));
    let broker = environment.start_broker_by(&namespaces.starter(), &flags);
    let exporter = environment.start_exporter(&EVERY_TYPE);
    let healthy = |scrape: &Exposition| {
        names.iter().for_each(|name| assert_eq!(mount_status(scrape, &at(name)).2, FUSE_SIZE, "{name}"));
        assert_eq!(mount_status(scrape, &at("local")).2, TMPFS_SIZE);
    };
    healthy(&scrape_within(&exporter, WHOLE));
    stop(Signal::STOP);
    all_dead(&exporter);
    assert_eq!(stuck(&broker), 3, "{}", broker.process.log());
    stop(Signal::CONT);
    returned(&broker, 3);
    healthy(&scrape_within(&exporter, WHOLE));

    // A program that is killed leaves a mount that fails: no reader refuses to start for it.
    drop((broker, exporter));
    stop(Signal::STOP);
    let broker = environment.start_broker_by(&namespaces.starter(), &flags);
    let exporter = environment.start_exporter(&EVERY_TYPE);
    let scrape = scrape_within(&exporter, WHOLE);
    assert_eq!(mount_status(&scrape, &at("local")), (0.0, String::new(), TMPFS_SIZE));
    drop(servers);
    drop(same);
    wait_until("the readers return", || {
        let scrape = exporter.metrics("10");
        let scrape = Exposition::parse(&scrape.body).unwrap();
        mount_status(&scrape, &at("local")).2 == TMPFS_SIZE
            && ["a", "f"].iter().all(|name| {
                mount_status(&scrape, &at(name)) == not_known("transport endpoint is not connected")
            })
    });
    assert!(!broker.process.log().contains("could not start"), "{}", broker.process.log());
}

/// The status and the body of `/-/ready`.
fn ready(exporter: &Exporter) -> (u16, String) {
    let answer = exporter.get("/-/ready");
    (answer.status, answer.text())
}

/// A file server dies, and more sensors than a class has readers: what cannot hang is served, and it shows. Nobody scrapes
/// while the sensors come back.
#[test]
fn without_readers_of_a_class_ready_fails_and_the_rest_is_served_until_they_return() {
    if !root_for("mount a file system in user space") {
        return;
    }
    let environment = Environment::new();
    let namespaces = Namespaces::new(&environment, "", "");
    let zones = environment.dir().join("sysfs/class/thermal");
    for number in 0..6 {
        let zone = zones.join(format!("thermal_zone{number}"));
        fs::create_dir_all(&zone).unwrap();
        fs::write(zone.join("type"), "acpitz\n").unwrap();
        mkfifoat(CWD, zone.join("temp"), Mode::from_raw_mode(0o644)).unwrap();
    }
    let dead = namespaces.path("mnt").join("dead");
    let server = namespaces.fuse("fuse.nfs4=nas:/", &dead);
    let mut flags = with_rootfs(&namespaces);
    flags[1] = flag("--path.sysfs=", environment.dir().join("sysfs"));
    let broker = environment.start_broker_by(&namespaces.starter(), &flags);
    let exporter = environment.start_exporter(&EVERY_TYPE);
    let needs_none = environment.start_exporter(&["--collector.disable-defaults", "--collector.loadavg"]);
    assert_eq!(ready(&exporter).0, 200);
    server.signal(Signal::STOP);
    wait_until("every reader of the sensors is stuck", || {
        exporter.metrics("10");
        stuck(&broker) >= 5
    });
    wait_until("it shows", || ready(&exporter).0 == 503);
    let why = ready(&exporter).1;
    assert!(why.contains("no available reader of class devices (4 stuck)"), "{why}");
    // A probe's own process finds the broker well: it serves, and a restart would hang in the same places.
    let mut probe = environment.command("keyhole-broker", BROKER_UID);
    probe.arg("probe").arg(flag("--socket.path=", environment.socket()));
    assert!(run_to_end(probe).status.success());
    for _ in 0..10 {
        let scrape = scrape_within(&exporter, WHOLE);
        has_root(&scrape);
        assert_eq!(mount_status(&scrape, &dead), not_known(TIMEOUT));
        assert_eq!(success(&scrape, "thermal_zone"), Some(0.0));
    }
    wait_until("an alert's metric shows it", || {
        let scrape = Exposition::parse(&exporter.metrics("10").body).unwrap();
        let available = |class| scrape.value("keyhole_broker_reader_available", &[("reader", class)]);
        (available("devices"), available("mounts"), available("procfs")) == (Some(0.0), Some(1.0), Some(1.0))
    });

    assert_eq!(ready(&needs_none).0, 200, "its collectors need no reader of the class");

    // A writer lets the readers of a fifo go on.
    let open = |number| {
        fs::File::options().read(true).write(true).open(zones.join(format!("thermal_zone{number}/temp")))
    };
    let _writers: Vec<fs::File> = (0..6).map(|number| open(number).unwrap()).collect();
    wait_until("the sensors' readers are there again", || ready(&exporter).0 == 200);
}
