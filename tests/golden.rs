//! Golden expositions: what `keyhole-exporter replay` prints for trees of kernel files, byte for byte.
//!
//! `UPDATE_GOLDEN=1 cargo test --test golden` rewrites them; read the difference before you commit it.
//! `tests/golden/capture.sh` captures a host for [`a_capture_of_a_real_host_has_its_golden_exposition`].

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use keyhole_test_support::exposition::Exposition;
use keyhole_test_support::{NODE_NAME, programs, run_to_end};

/// What differs between two runs.
const MASKED: &[(&str, Trees)] = &[
    ("node_scrape_collector_duration_seconds", Trees::All),
    // A capture has its time; for any other tree the exporter's own clock stands in.
    ("node_time_seconds", Trees::WithoutTime),
];

#[derive(PartialEq)]
enum Trees {
    All,
    WithoutTime,
}

/// The lines of an exposition, the values of [`MASKED`] taken out.
fn masked(text: &str, tree: &Path) -> String {
    let timed = tree.join("keyhole/captured").exists();
    let is_masked = |line: &str| {
        let name = line.split(['{', ' ']).next().unwrap_or_default();
        MASKED.iter().any(|(masked, trees)| *masked == name && (*trees == Trees::All || !timed))
    };
    let mut out = String::new();
    for line in text.lines() {
        match line.rsplit_once(' ') {
            Some((series, _)) if is_masked(line) => out.push_str(&format!("{series} MASKED\n")),
            _ => out.push_str(&format!("{line}\n")),
        }
    }
    out
}

/// What replaying a tree prints; it must be well formed, without an error in the log.
fn replay(tree: &Path, flags: &[&str]) -> String {
    // As this user: nothing here needs a uid of its own, and the trees may lie where that uid cannot reach.
    let mut command = Command::new(programs::all().join("keyhole-exporter"));
    command.args(flags).arg("replay").arg(tree).stdin(Stdio::null());
    command.env("NODE_NAME", NODE_NAME).env("TZ", "UTC");
    let output = run_to_end(command);
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    // 3: some collectors fail, as their samples show.
    assert!(output.status.success() && !log.contains("level=ERROR"), "{log}");
    let exposition = Exposition::parse(&output.stdout).unwrap_or_else(|error| panic!("{error}"));
    assert!(exposition.has("node_scrape_collector_success"));
    String::from_utf8(output.stdout).unwrap()
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// Compares with, or with `UPDATE_GOLDEN` set writes, `tests/golden/<name>/expected.prom`.
fn assert_golden(name: &str, tree: &Path, flags: &[&str]) {
    let got = masked(&replay(tree, flags), tree);
    let path = golden(name).join("expected.prom");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::create_dir_all(golden(name)).unwrap();
        fs::write(&path, got).unwrap();
        return;
    }
    let expected = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let differences: Vec<String> = differences(&expected, &got);
    assert!(
        differences.is_empty(),
        "{} differs (UPDATE_GOLDEN=1 rewrites it):\n{}",
        path.display(),
        differences.join("\n")
    );
}

/// Lines that only one of the two has, in the manner of diff; or a remark that only their order differs.
fn differences(expected: &str, got: &str) -> Vec<String> {
    const SHOWN: usize = 40;
    let only = |mark: &str, of: &str, not_in: &str| -> Vec<String> {
        let others: std::collections::HashSet<&str> = not_in.lines().collect();
        of.lines().filter(|line| !others.contains(line)).map(|line| format!("{mark}{line}")).collect()
    };
    let mut lines = only("-", expected, got);
    lines.extend(only("+", got, expected));
    if lines.is_empty() && expected != got {
        lines.push("the same lines in another order".into());
    }
    let more = lines.len().saturating_sub(SHOWN);
    lines.truncate(SHOWN);
    if more > 0 {
        lines.push(format!("and {more} more"));
    }
    lines
}

#[test]
fn a_capture_of_a_real_host_has_its_golden_exposition() {
    let tree = golden("host").join("tree");
    assert_golden("host", &tree, &["--collector.cpu.info", "--collector.netdev.address-info"]);
}

#[test]
fn a_captured_host_is_small_and_complete() {
    let tree = golden("host").join("tree");
    let mut bytes = 0;
    let mut left = vec![tree.clone()];
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                left.push(entry.path());
            } else {
                bytes += fs::symlink_metadata(entry.path()).unwrap().len();
            }
        }
    }
    assert!(bytes < 300 << 10, "{bytes} bytes");
    let exposition = Exposition::parse(replay(&tree, &[]).as_bytes()).unwrap();
    for family in [
        "node_boot_time_seconds",
        "node_cpu_seconds_total",
        "node_disk_read_bytes_total",
        "node_filesystem_size_bytes",
        "node_memory_MemTotal_bytes",
        "node_network_receive_bytes_total",
        "node_uname_info",
    ] {
        assert!(exposition.has(family), "{family}");
    }
}

#[test]
fn a_host_with_no_files_at_all_fails_no_parser() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("proc")).unwrap();
    fs::create_dir(dir.path().join("sys")).unwrap();
    assert_golden("empty", dir.path(), &[]);
}

#[test]
fn hostile_names_and_files_result_in_well_formed_lines_and_no_wrong_ones() {
    let dir = tempfile::tempdir().unwrap();
    for (path, content) in hostile_files() {
        let path = dir.path().join(OsStr::from_bytes(&path));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    let flags = ["--collector.cpu.info", "--collector.netdev.address-info", "--collector.processes"];
    assert_golden("hostile", dir.path(), &flags);
}

/// A tree by someone who may name interfaces, mounts, disks, chips and processes, and cut or inflate any file.
fn hostile_files() -> Vec<(Vec<u8>, Vec<u8>)> {
    /// Everything that could end a label, a line, a field or a string too early, and bytes that are no text.
    const NAME: &[u8] = b"a\"b\\c\nd}e{f,g=h:i)j k\xff\xc3";
    let mut files: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    let mut add = |path: &[&[u8]], content: &[&[u8]]| files.push((path.concat(), content.concat()));

    // Interfaces: a colon and a quote in a name, a name with nothing behind it, a number that is none, a cut line.
    add(
        &[b"proc/1/net/dev"],
        &[
            b"Inter-|   Receive                                                |  Transmit\n",
            b" face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n",
            b"eth0:1\"\\\xff: 11 1 0 0 0 0 0 0 22 2 0 0 0 0 0 0\n",
            b"  eth1:18446744073709551616 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n",
            b"  eth2:-5 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n",
            b" empty:\n",
            b"  good: 100 1 0 0 0 0 0 0 200 2 0 0 0 0 0 0\n",
            b"  good: 101 1 0 0 0 0 0 0 201 2 0 0 0 0 0 0\n",
            b"   cut: 12 3",
        ],
    );
    for (attribute, value) in [
        ("mtu", "1500\n"),
        ("ifalias", "x\"y\\z\n"),
        ("operstate", "up\n"),
        ("speed", "-1\n"),
        ("flags", "0xzz\n"),
    ] {
        add(&[b"sys/class/net/", NAME, b"/", attribute.as_bytes()], &[value.as_bytes()]);
    }
    add(&[b"sys/class/net/long/mtu"], &[&[b'9'; 5000]]);
    add(
        &[b"proc/1/net/arp"],
        &[
            b"IP address       HW type     Flags       HW address            Mask     Device\n",
            b"192.0.2.1        0x1         0x2         02:00:00:00:00:01     *        e\"t\\h\xfe\n",
            b"192.0.2.2        0x1\n\n192.0.2.3",
        ],
    );

    // Mounts: octal escapes, a separator in a name, fields that are missing, one point twice.
    add(
        &[b"proc/1/mountinfo"],
        &[
            b"20 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw\n",
            b"21 20 254:2 / /mnt/new\\012line\\134n\\040-\\040\"quote rw - ext4 /dev/v\"d\\134b ro\n",
            b"22 20 254:3 / /mnt/\xff\xfe rw - xfs /dev/vdc rw\n",
            b"23 20 254:4 / /mnt/bad\\777\\9 rw - xfs /dev/vdd rw\n",
            b"24 20 254:5 / /mnt/nodash rw ext4 /dev/vde rw\n",
            b"25 20 nonsense / /mnt/device rw - ext4 /dev/vdf rw\n",
            b"21 20 254:2 / /mnt/new\\012line\\134n\\040-\\040\"quote rw - ext4 /dev/v\"d\\134b rw\n",
            b"26 20 254:6 /",
        ],
    );

    // Disks: a name with a quote, too few fields, numbers that are too large, the same disk twice.
    add(
        &[b"proc/diskstats"],
        &[
            b" 254 0 v\"d\\a\xff 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17\n",
            b" 254 1 few 1 2 3\n",
            b" 254 2 vast 99999999999999999999999 2 3 4 5 6 7 8 9 10 11\n",
            b" 8 0 sda 1 2 3 4 5 6 7 8 9 10 11\n",
            b" 8 0 sda 1 2 3 4 5 6 7 8 9 10 11\n",
            b" 8 16 sdb 1 2",
        ],
    );
    add(
        &[b"proc/mdstat"],
        &[
            b"Personalities : [raid1] [\"x\\y]\n",
            b"md\"0\\ : active raid1 sdb1[1] sda1[0]\n      100 blocks super 1.2 [2/2] [UU]\n\n",
            b"md1 : active raid99 sdb1[1](\n      blocks [9999999999999999999999/2] [U\n",
            b"md2 : ",
        ],
    );

    // Whole-machine files: cut in a number, empty, binary, a key twice, keys that are no names.
    add(
        &[b"proc/stat"],
        &[
            b"cpu  10 20 30 40 50 60 70 80 90 100\ncpu0 1 2 3 4 5 6 7 8 9 10\ncpu\"x 1 2 3 4\ncpu1 1 2\n",
            b"cpu0 5 5 5 5 5 5 5 5 5 5\nintr 12 3 4\nctxt -7\nbtime 17000000",
        ],
    );
    add(&[b"proc/loadavg"], &[]);
    add(&[b"proc/meminfo"], &[
        b"MemTotal:       16 kB\nMemFree:        zero kB\nHug\"e\\\xff:  3 kB\nMemTotal:       17 kB\n:  5 kB\n",
        b"Active(anon):   4 kB\nNoUnit: 5\nHuge: 99999999999999999999 kB\nDirty: 12",
    ]);
    let mut vmstat = b"pgfault 5\npgmajfault \xff\noom_kill 1\n".to_vec();
    while vmstat.len() < 200 << 10 {
        vmstat.extend_from_slice(format!("pgpad{} 1\n", vmstat.len()).as_bytes());
    }
    add(&[b"proc/vmstat"], &[&vmstat]);
    add(
        &[b"proc/cpuinfo"],
        &[
            b"processor\t: 0\nmodel name\t: a \"CPU\" \\ of\x01 no\xff one\nflags\t\t: fpu \"x\\\n\n",
            b"processor\t: 99999999999999999999\n\nprocessor\t: 0\nmodel name\t: again\n\nprocessor",
        ],
    );
    add(&[b"proc/pressure/cpu"], &[b"some avg10=0.00 avg60 total=\nfull total=18446744073709551615\n"]);
    add(&[b"proc/pressure/io"], &[b"\xff\xfe\x00\x01"]);
    add(
        &[b"proc/1/net/snmp"],
        &[b"Ip: Forwarding \"x\nIp: 1\nTcp: A B C\nUdp: InDatagrams\nUdp: 7\nUdp: InDatagrams\nUdp: 8\n"],
    );
    add(&[b"proc/1/net/netstat"], &[b"TcpExt: SyncookiesSent\n"]);
    add(&[b"proc/1/net/softnet_stat"], &[b"0000000g 0 0\n00000001\n\n"]);
    add(&[b"proc/1/net/sockstat"], &[b"sockets: used\nTCP: inuse x orphan 0 tw\nUDP: inuse 2 mem 1"]);
    add(
        &[b"proc/1/net/udp"],
        &[b"  sl\n 1: 0 0 07 zz:00000001 00\n 2: 00000000:0044 00000000:0000 07 00000001:00000002 00"],
    );
    add(&[b"proc/1/net/stat/nf_conntrack"], &[b"entries searched\n0000000a\nzz 1\n"]);
    add(&[b"proc/sys/fs/file-nr"], &[b"1024\t0"]);
    add(&[b"proc/sys/kernel/osrelease"], &[b"6.1\"\\\n\xff\n"]);
    add(
        &[b"proc/schedstat"],
        &[b"version 15\ncpu0 1 2 3\ncpu\"1 0 0 0 0 0 0 1 2 3\ncpu2 0 0 0 0 0 0 7 8 9\n"],
    );

    // sysfs: types, labels and chips that are named by the authors of drivers and devices.
    add(&[b"sys/class/thermal/thermal_zone0/type"], &[NAME, b"\n"]);
    add(&[b"sys/class/thermal/thermal_zone0/temp"], &[b"42000\n"]);
    add(&[b"sys/class/thermal/thermal_zone1/type"], &[b"hot\n"]);
    add(&[b"sys/class/thermal/thermal_zone1/temp"], &[b"99999999999999999999999\n"]);
    add(&[b"sys/class/hwmon/hwmon0/name"], &[NAME, b"\n"]);
    add(&[b"sys/class/hwmon/hwmon0/temp1_input"], &[b"30500\n"]);
    add(&[b"sys/class/hwmon/hwmon0/temp1_label"], &[b"\"core\\\x01\xff\n"]);
    add(&[b"sys/class/hwmon/hwmon0/temp1_\"x"], &[b"1\n"]);
    add(&[b"sys/class/hwmon/hwmon0/fan99999999999999999999_input"], &[b"1\n"]);
    add(&[b"sys/class/power_supply/", NAME, b"/capacity"], &[b"50\n"]);
    add(&[b"sys/class/power_supply/", NAME, b"/serial_number"], &[NAME, b"\n"]);
    add(&[b"sys/devices/system/cpu/isolated"], &[b"0-99999999999\n"]);
    add(&[b"sys/devices/system/cpu/cpu0/topology/core_id"], &[b"-1\n"]);
    add(&[b"sys/devices/system/clocksource/clocksource0/current_clocksource"], &[b"t\"sc\n"]);
    add(&[b"sys/devices/system/clocksource/clocksource0/available_clocksource"], &[b"t\"sc \\ hpet\n"]);
    add(&[b"etc/os-release"], &[b"NAME=\"a\\\"b\nID=\xff\nPRETTY_NAME='x\nVERSION_ID=\"12\"\n=\n"]);

    // Processes: a name with a parenthesis and a newline, a state that is none, a file that ends in the name.
    add(&[b"proc/7/stat"], &[b"7 (a) R 1 (\n) S 1 7 7 0 -1 0 0 0 0 0 0 0 0 0 20 0 3 0 100 0 0\n"]);
    add(&[b"proc/8/stat"], &[b"8 (b) ? 1\n"]);
    add(&[b"proc/9/stat"], &[b"9 (cut"]);
    files
}

#[test]
fn the_check_of_the_text_format_refuses_what_the_format_forbids() {
    const GOOD: &str = "# HELP a_total A\\n \"b\" \\\\.\n# TYPE a_total counter\na_total{x=\"\\\"\\\\\\n,}\",y=\"\"} 1e-05 12\na_total NaN\n\
        # HELP h A.\n# TYPE h histogram\nh_bucket{le=\"+Inf\"} 1\nh_sum -Inf\nh_count 1\n";
    let good = GOOD.replace("a_total NaN", "a_total 3");
    let parsed = Exposition::parse(good.as_bytes()).unwrap();
    assert_eq!(parsed.len(), 5);
    assert_eq!(parsed.value("a_total", &[("x", "\"\\\n,}")]), Some(1e-5));
    let head = "# HELP m A.\n# TYPE m gauge\n";
    let bad = [
        ("m 1\n", "no HELP and no TYPE"),
        ("# HELP m A.\nm 1\n", "no TYPE"),
        ("# TYPE m gauge\nm 1\n", "no HELP"),
        ("# HELP m A.\n# TYPE m number\nm 1\n", "no such type"),
        ("# HELP m A.\n# TYPE m gauge\n", "no sample"),
        ("# HELP m A.\n# TYPE m gauge\n\nm 1\n", "an empty line"),
        ("# HELP m A.\n# TYPE n gauge\nn 1\n", "TYPE of another"),
        ("# comment\n", "a comment"),
        ("# HELP m \\x\n# TYPE m gauge\nm 1\n", "a bad escape in a help text"),
    ];
    for (text, why) in bad {
        assert!(Exposition::parse(text.as_bytes()).is_err(), "{why}: {text:?}");
    }
    for sample in [
        "m 1",
        "m\n",
        "m one\n",
        "m inf\n",
        "m 0x10\n",
        "m 1 2 3\n",
        "m 1 now\n",
        "m  1\n",
        "m{} 1\n",
        "m{a=b} 1\n",
        "m{a=\"b} 1\n",
        "m{a=\"b\"c=\"d\"} 1\n",
        "m{a=\"b\",} 1\n",
        "m{a=\"\\q\"} 1\n",
        "m{a=\"b\",a=\"c\"} 1\n",
        "m{1a=\"b\"} 1\n",
        "m{a:b=\"c\"} 1\n",
        "m{__name__=\"b\"} 1\n",
        "1m 1\n",
        "n 1\n",
        "m_sum 1\n",
        "m 1\nm 2\n",
        "m{a=\"1\",b=\"2\"} 1\nm{b=\"2\",a=\"1\"} 1\n",
        "m 1\n# HELP n A.\n# TYPE n gauge\nn 1\n# HELP m A.\n# TYPE m gauge\nm{a=\"b\"} 1\n",
        "m 1\n# TYPE m gauge\n",
        "m{a=\"new\nline\"} 1\n",
    ] {
        assert!(Exposition::parse([head, sample].concat().as_bytes()).is_err(), "{sample:?}");
    }
    assert!(Exposition::parse(&[head.as_bytes(), b"m{a=\"\xff\"} 1\n"].concat()).is_err(), "not UTF-8");
    let counter = "# HELP c A.\n# TYPE c counter\nc -1\n";
    assert!(Exposition::parse(counter.as_bytes()).is_err(), "a counter below zero");
}
