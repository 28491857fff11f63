//! Mounts that hang.

use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;

use crate::common::exposition::Exposition;
use crate::common::usage::{Usage, soon};
use crate::common::{Exporter, Home, root_for};
use crate::success;
use crate::world::World;

/// A scrape that must succeed within `limit`.
fn scrape_within(exporter: &Exporter, limit: Duration) -> Exposition {
    let answer = exporter.metrics("10");
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(answer.took < limit, "{:?}", answer.took);
    let scrape = Exposition::parse(&answer.body).unwrap();
    for collector in ["cpu", "diskstats", "filesystem", "loadavg", "meminfo", "netdev", "stat"] {
        assert_eq!(success(&scrape, collector), Some(1.0), "{collector}");
    }
    scrape
}

/// What is told of a mount: whether it is in error and why, and its size.
fn told(scrape: &Exposition, mount: &Path) -> (f64, String, Option<f64>) {
    let mount = mount.to_str().unwrap();
    let of_mount = |sample: &&_| -> bool {
        let sample: &crate::common::exposition::Sample = sample;
        sample.labels["mountpoint"] == mount
    };
    let errors: Vec<_> = scrape.samples("node_filesystem_device_error").filter(of_mount).collect();
    let [error] = errors[..] else { panic!("{mount}: {errors:?}") };
    let size = scrape.samples("node_filesystem_size_bytes").find(of_mount).map(|sample| sample.value);
    (error.value, error.labels["device_error"].clone(), size)
}

const LATE: Duration = Duration::from_secs(4);
const AT_ONCE: Duration = Duration::from_secs(1);

#[test]
fn a_hung_mount_costs_its_kind_and_what_lies_below_it_and_no_other_file_system() {
    if !root_for("mount a file system in user space") {
        return;
    }
    let home = Home::new();
    let world = World::new(&home, "", "mount -t tmpfs -o size=1m before $world/mnt");
    let [one, two, three, good] = ["one", "two", "three", "good"].map(|name| world.path("mnt").join(name));
    world.run("mkdir mnt/good");
    let servers = [("fuse.one", &one), ("fuse.two", &two), ("fuse.three", &three)]
        .map(|(kind, folder)| world.fuse(kind, folder));
    // Later in the mount table than those that will hang.
    world.run("mount -t tmpfs -o size=1m after mnt/good");
    let flags = [world.flags(), vec!["--path.rootfs=/".into()]].concat();
    let broker = home.start_broker_by(&world.starter(), &flags);
    let exporter = home.start_exporter::<&str>(&[]);
    let fuse_size = Some(1000.0 * 4096.0);
    let healthy = |scrape: &Exposition, mount: &Path, size: Option<f64>| {
        assert_eq!(told(scrape, mount), (0.0, String::new(), size), "{}", mount.display());
    };
    let hangs = |scrape: &Exposition, mount: &Path| {
        assert_eq!(told(scrape, mount), (1.0, "mountpoint timeout".into(), None), "{}", mount.display());
    };
    let tmpfs_size = Some(1_048_576.0);

    let scrape = scrape_within(&exporter, LATE);
    [&one, &two, &three].iter().for_each(|mount| healthy(&scrape, mount, fuse_size));
    healthy(&scrape, &good, tmpfs_size);
    let before = Usage::of(broker.pid());

    servers[0].signal(Signal::STOP);
    // The scrape that meets it is late and whole; the next one knows.
    for limit in [LATE, AT_ONCE, AT_ONCE] {
        let scrape = scrape_within(&exporter, limit);
        hangs(&scrape, &one);
        [&two, &three].iter().for_each(|mount| healthy(&scrape, mount, fuse_size));
        healthy(&scrape, &good, tmpfs_size);
        healthy(&scrape, &world.path("mnt"), tmpfs_size);
    }
    servers[1].signal(Signal::STOP);
    for limit in [LATE, AT_ONCE] {
        let scrape = scrape_within(&exporter, limit);
        [&one, &two].iter().for_each(|mount| hangs(&scrape, mount));
        healthy(&scrape, &three, fuse_size);
        healthy(&scrape, &good, tmpfs_size);
    }
    assert!(broker.log().contains("outstayed its budget"), "{}", broker.log());

    servers.iter().for_each(|server| server.signal(Signal::CONT));
    soon("the lanes return", || broker.log().matches("stuck lane has returned").count() == 2);
    let scrape = scrape_within(&exporter, AT_ONCE);
    [&one, &two, &three].iter().for_each(|mount| healthy(&scrape, mount, fuse_size));
    healthy(&scrape, &good, tmpfs_size);
    let after = Usage::of(broker.pid());
    assert_eq!((after.descriptors, after.threads), (before.descriptors, before.threads));
}

#[test]
fn mounts_that_hang_in_many_ways_leave_all_that_is_no_mount() {
    if !root_for("mount a file system in user space") {
        return;
    }
    let home = Home::new();
    let world = World::new(&home, "", "");
    let kinds = ["fuse.a", "fuse.b", "fuse.c", "fuse.d", "fuse.e"];
    let servers = kinds.map(|kind| world.fuse(kind, &world.path("mnt").join(kind)));
    let flags = [world.flags(), vec!["--path.rootfs=/".into()]].concat();
    let broker = home.start_broker_by(&world.starter(), &flags);
    let exporter = home.start_exporter::<&str>(&[]);
    servers.iter().for_each(|server| server.signal(Signal::STOP));
    for limit in [Duration::from_secs(8), AT_ONCE, AT_ONCE] {
        let scrape = scrape_within(&exporter, limit);
        for kind in kinds {
            let (error, why, _) = told(&scrape, &world.path("mnt").join(kind));
            assert_eq!((error, &*why), (1.0, "mountpoint timeout"));
        }
    }
    assert_eq!(broker.log().matches("outstayed its budget").count(), 3, "a lane is left");
    servers.iter().for_each(|server| server.signal(Signal::CONT));
    soon("the lanes return", || broker.log().matches("stuck lane has returned").count() == 3);
    let scrape = scrape_within(&exporter, AT_ONCE);
    for kind in kinds {
        assert_eq!(told(&scrape, &world.path("mnt").join(kind)).0, 0.0);
    }
}
