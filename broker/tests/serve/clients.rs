//! Which uids are answered, and that misbehaving clients lose only their own connections.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use keyhole_proto::v1::broker_client::BrokerClient;
use keyhole_proto::v1::{DescribeRequest, Outcome, Query, ReadRequest};
use keyhole_test_support::client::{block_on, channel, connect, read, read_numbers, try_channel};
use keyhole_test_support::{
    BROKER_UID, DENIED_UID, EXPORTER_UID, broker_gid, broker_uid, is_root, run_as, wait_for,
};
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::raw_grpc::{begin_many, call, finish, grpc, start_call};
use crate::{new_environment, root};

#[test]
fn an_allowed_uid_is_answered_and_another_is_refused() {
    if !root() {
        return;
    }
    let environment = new_environment();
    let broker = environment.start_broker(&[format!("--allow-uid={EXPORTER_UID}")]);
    for uid in [BROKER_UID, EXPORTER_UID] {
        let answers =
            broker.ask_as(uid, |mut client| async move { read(&mut client, &[Query::Loadavg]).await });
        assert_eq!(answers.unwrap()[0].outcome, Outcome::Ok, "uid {uid}");
    }
    assert_eq!(broker.describe().counters.unwrap().refused_peers, 0);
    // uid 0 is not allowed either.
    for uid in [DENIED_UID, 0] {
        let mut stream = run_as(uid, BROKER_UID, || connect(&environment.socket()));
        let start = Instant::now();
        let mut output = Vec::new();
        match stream.read_to_end(&mut output) {
            Ok(_) => assert!(output.is_empty(), "{output:?}"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
        }
        assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
        let asked = run_as(uid, BROKER_UID, || {
            block_on(async {
                let mut client = BrokerClient::new(try_channel(environment.socket()).await.ok()?);
                client.describe(DescribeRequest {}).await.ok()
            })
        });
        assert!(asked.is_none(), "{asked:?}");
    }
    let counters = broker.describe().counters.unwrap();
    assert!(counters.refused_peers >= 4, "{counters:?}");
    let shut =
        run_as(DENIED_UID, DENIED_UID, || UnixStream::connect(environment.socket()).unwrap_err().kind());
    assert_eq!(shut, ErrorKind::PermissionDenied, "one outside the group does not even connect");
}

#[test]
fn the_probe_of_a_uid_that_is_not_allowed_reports_it() {
    if !root() {
        return;
    }
    let environment = new_environment();
    let broker = environment.start_broker(&["--log.level=info"]);
    assert!(environment.probe(BROKER_UID).status.success());
    let refused = environment.probe(DENIED_UID);
    assert_eq!(refused.status.code(), Some(1));
    let output = String::from_utf8(refused.stderr).unwrap();
    assert!(output.contains("is this uid allowed?") && output.lines().count() == 1, "{output}");
    drop(broker);
}

/// The first bytes of a client: the preface and an empty SETTINGS frame.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

#[test]
fn garbage_closes_its_connection_and_nothing_else() {
    let environment = new_environment();
    let mut broker = environment.start_broker(&["--log.level=info"]);
    // Pseudo-random numbers with a fixed seed, so that failures are reproducible.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let noise: Vec<u8> = (0..1 << 20)
        .map(|_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 56) as u8
        })
        .collect();
    let frame = |length: u32, kind: u8, flags: u8, stream: u32, payload: &[u8]| -> Vec<u8> {
        let mut frame = length.to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        frame
    };
    let after_preface = |bytes: &[u8]| [PREFACE, bytes].concat();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("noise", noise.clone()),
        ("zeros", vec![0; 1 << 16]),
        ("HTTP/1.1", b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
        ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".repeat(50)),
        ("noise after the preface", after_preface(&noise)),
        ("a frame larger than allowed", after_preface(&frame(0x00ff_ffff, 0, 0, 1, &noise[..1 << 16]))),
        ("data on no stream", after_preface(&frame(4, 0, 0, 1, b"abcd"))),
        ("headers that are no HPACK", after_preface(&frame(64, 1, 4, 1, &noise[..64]))),
        ("settings on a stream", after_preface(&frame(0, 4, 0, 3, b""))),
        ("a window of nothing", after_preface(&frame(4, 8, 0, 0, &[0; 4]))),
        ("a continuation of nothing", after_preface(&frame(0, 9, 0, 1, b""))),
    ];
    for (what, bytes) in cases {
        let mut stream = broker.connect();
        // It may be closed before everything is written.
        let _ = stream.write_all(&bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let start = Instant::now();
        let ended = stream.read_to_end(&mut Vec::new());
        assert!(
            !matches!(&ended, Err(error) if error.kind() == ErrorKind::WouldBlock),
            "{what} is not closed after {:?}",
            start.elapsed()
        );
        assert!(broker.process.is_running(), "{what} ended it");
        assert_eq!(broker.read(&[Query::Loadavg])[0].outcome, Outcome::Ok, "after {what}");
    }
}

#[test]
fn a_connection_without_a_request_is_closed_after_five_seconds() {
    let environment = new_environment();
    let broker = environment.start_broker(&["--log.level=info"]);
    let (mut silent, mut polite) = (broker.connect(), broker.connect());
    polite.write_all(PREFACE).unwrap();
    let start = Instant::now();
    for stream in [&mut silent, &mut polite] {
        stream.read_to_end(&mut Vec::new()).unwrap();
        let after = start.elapsed();
        assert!(after > Duration::from_secs(4) && after < Duration::from_secs(9), "{after:?}");
    }
    assert_eq!(broker.describe().counters.unwrap().late_handshakes, 2);
}

#[test]
fn a_uid_has_few_connections_and_takes_none_of_others() {
    let environment = new_environment();
    let broker = environment.start_broker(&[format!("--allow-uid={EXPORTER_UID}")]);
    let mut connections: Vec<_> = (0..4).map(|_| broker.connect()).collect();
    // The fifth is closed at once, and the others stay open.
    let mut fifth = broker.connect();
    let start = Instant::now();
    let _ = fifth.read_to_end(&mut Vec::new());
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    connections[0].set_nonblocking(true).unwrap();
    let mut bytes = [0; 1024];
    loop {
        match connections[0].read(&mut bytes) {
            Ok(0) => panic!("it was closed"),
            Ok(_) => {}
            Err(error) => break assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
    }
    if is_root() {
        let answers = broker
            .ask_as(EXPORTER_UID, |mut client| async move { read(&mut client, &[Query::Loadavg]).await });
        assert_eq!(answers.unwrap()[0].outcome, Outcome::Ok, "another uid is not connections up");
    }
    drop(connections);
    // Its permits are released.
    let described = wait_for("a place", || {
        run_as(broker_uid(), broker_gid(), || {
            block_on(async {
                let mut client = BrokerClient::new(try_channel(environment.socket()).await.ok()?);
                client.describe(DescribeRequest {}).await.ok()
            })
        })
    });
    assert!(described.into_inner().counters.unwrap().refused_peers >= 1);
}

#[test]
fn a_request_that_is_not_a_list_of_known_queries_is_invalid() {
    let environment = new_environment();
    let broker = environment.start_broker(&["--log.level=info"]);
    let (stat, unknown) = (Query::Stat as i32, 9999);
    let cases: Vec<(&str, Vec<i32>)> = vec![
        ("empty", vec![]),
        ("unspecified", vec![0]),
        ("unknown", vec![stat, unknown]),
        ("negative", vec![-1]),
        ("repeated", vec![stat, stat]),
        ("long", (1..=200).collect()),
    ];
    let socket = environment.socket();
    broker.ask(|mut client| async move {
        for (what, queries) in cases {
            let status = read_numbers(&mut client, queries).await.unwrap_err();
            assert_eq!(status.code(), Code::InvalidArgument, "{what}: {status}");
            assert!(!status.message().is_empty());
        }
        // Longer than any request may be.
        let status = read_numbers(&mut client, vec![stat; 100_000]).await.unwrap_err();
        assert!(matches!(status.code(), Code::OutOfRange | Code::ResourceExhausted), "{status}");
        // Unknown methods.
        let mut other = HealthClient::new(channel(socket).await);
        let status = other.check(HealthCheckRequest { service: "x".into() }).await.unwrap_err();
        assert_eq!(status.code(), Code::NotFound);
        assert_eq!(read_numbers(&mut client, vec![stat]).await.unwrap()[0].outcome, Outcome::Ok);
    });
    assert_eq!(broker.describe().counters.unwrap().reads, 1, "nothing was read for the others");
}

#[test]
fn an_unknown_service_is_unimplemented() {
    let environment = new_environment();
    let broker = environment.start_broker(&["--log.level=info"]);
    broker.ask(|_| async {
        for path in
            ["/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", "/x/y", "/keyhole.v1.Broker/Write"]
        {
            let (status, _) = call(&environment.socket(), path, &[0; 5]).await;
            assert_eq!(status, Some(Code::Unimplemented as i32), "{path}");
        }
    });
}

#[test]
fn more_than_a_burst_is_exhausted_until_time_passes() {
    let environment = new_environment();
    let broker = environment.start_broker(&[format!("--allow-uid={EXPORTER_UID}")]);
    let limited = broker.ask(|mut client| async move {
        let mut limited = 0;
        for _ in 0..120 {
            match client.describe(DescribeRequest {}).await {
                Ok(_) => {}
                Err(status) => {
                    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
                    limited += 1;
                }
            }
        }
        let mut refused = 0;
        for _ in 0..20 {
            let read = read(&mut client, &[Query::Loadavg]).await;
            refused += u32::from(read.is_err_and(|status| status.code() == Code::ResourceExhausted));
        }
        assert!(refused > 0, "reads count too");
        limited
    });
    assert!(limited >= 40, "only {limited} of 120 were too many");
    if is_root() {
        let other = broker
            .ask_as(EXPORTER_UID, |mut client| async move { read(&mut client, &[Query::Loadavg]).await });
        assert!(other.is_ok(), "another uid has its own share");
    }
    std::thread::sleep(Duration::from_millis(500));
    assert!(broker.describe().counters.unwrap().limited_requests > limited);
}

#[test]
fn a_cancelled_read_is_charged() {
    let environment = new_environment();
    environment.mkfifo("sys/devices/system/cpu/vulnerabilities/meltdown");
    let broker = environment.start_broker(&environment.fixture_flags());
    broker.ask(|mut client| async move {
        let reading = read(&mut client, &[Query::CpuVulnerabilities]);
        assert!(tokio::time::timeout(Duration::from_secs(1), reading).await.is_err(), "it sleeps");
        // It has cost half of a burst of 40; 20 per second are refilled.
        let (start, mut answered) = (Instant::now(), 0);
        while answered < 200 && client.describe(DescribeRequest {}).await.is_ok() {
            answered += 1;
        }
        let most = 25.0 + 20.0 * start.elapsed().as_secs_f64();
        assert!(f64::from(answered) < most, "{answered} answers after a read of a second, at most {most}");
    });
}

#[test]
fn accepting_without_descriptors_is_counted_and_retried_and_does_not_fill_the_log() {
    use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
    let environment = new_environment();
    let broker = environment.start_broker(&["--log.level=info"]);
    broker.read(&[Query::Loadavg]);
    let pid = Pid::from_child(&broker.process.child);
    let maximum = getrlimit(Resource::Nofile).maximum;
    // As its own uid: for another uid's process it needs a capability that even root may lack.
    let allow = |current| {
        let limit = Rlimit { current, maximum };
        run_as(broker_uid(), broker_gid(), || prlimit(Some(pid), Resource::Nofile, limit).unwrap());
    };
    allow(Some(1));
    let _waits = broker.connect();
    std::thread::sleep(Duration::from_secs(2));
    allow(maximum);
    let failed = broker.describe().counters.unwrap().failed_accepts;
    assert!((5..40).contains(&failed), "{failed}");
    let log = broker.process.log();
    let lines = log.lines().filter(|line| line.contains("accept failed")).count();
    assert!((1..=6).contains(&lines), "{log}");
}

#[test]
fn a_client_that_does_not_read_delays_others_shortly_and_gets_an_error() {
    let environment = new_environment();
    environment.write("proc/1/net/dev", &"x".repeat(4 << 20));
    environment.write("proc/loadavg", "1");
    let broker = environment.start_broker(&environment.fixture_flags());
    let socket = environment.socket();
    broker.ask(|mut client| async move {
        let request = grpc(&ReadRequest { queries: vec![Query::NetDev as i32] });
        // From three connections, each with several reads waiting.
        let mut unread = Vec::new();
        for _ in 0..3 {
            unread.push(start_call(&socket, "/keyhole.v1.Broker/Read", &request).await);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        let start = Instant::now();
        let answers = read(&mut client, &[Query::Loadavg]).await.unwrap();
        assert_eq!(answers[0].outcome, Outcome::Ok);
        assert!(start.elapsed() < Duration::from_millis(1500), "{:?}", start.elapsed());
        // When it reads again, it gets an error.
        let (status, bytes) = finish(unread.remove(0)).await;
        assert_eq!(status, Some(Code::DeadlineExceeded as i32));
        assert!(bytes < 4 << 20);
    });
}

#[test]
fn a_client_that_reads_just_fast_enough_delays_others_for_less_than_a_second() {
    let environment = new_environment();
    environment.write("proc/1/net/tcp", &"x".repeat(16 << 20));
    environment.write("proc/loadavg", "1");
    let broker = environment.start_broker(&environment.fixture_flags());
    let socket = environment.socket();
    broker.ask(|mut client| async move {
        let request = grpc(&ReadRequest { queries: vec![Query::Tcp as i32] });
        let mut answer = start_call(&socket, "/keyhole.v1.Broker/Read", &request).await;
        let dawdle = tokio::spawn(async move {
            let mut taken = 0;
            // One batch of the broker at a time.
            while let Some(Ok(data)) = answer.0.body_mut().data().await {
                answer.0.body_mut().flow_control().release_capacity(data.len()).unwrap();
                taken += data.len();
                if taken >= 128 << 10 {
                    taken = 0;
                    tokio::time::sleep(Duration::from_millis(30)).await;
                }
            }
        });
        tokio::time::sleep(Duration::from_millis(50)).await;
        let start = Instant::now();
        let answers = read(&mut client, &[Query::Loadavg]).await.unwrap();
        assert_eq!(answers[0].outcome, Outcome::Ok);
        assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
        dawdle.abort();
    });
}

#[test]
fn responses_that_clients_do_not_read_are_dropped() {
    let environment = new_environment();
    let queries = [Query::NetDev, Query::Udp, Query::Arp, Query::Mounts];
    for path in ["net/dev", "net/udp", "net/arp", "mountinfo"] {
        environment.write(&format!("proc/1/{path}"), &"x".repeat(250 << 10));
    }
    let broker = environment.start_broker(&environment.fixture_flags());
    let anonymous = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", broker.process.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
    };
    let queries: Vec<i32> = queries.map(|query| query as i32).to_vec();
    let socket = environment.socket();
    broker.ask(|mut client| async move {
        read_numbers(&mut client, queries.clone()).await.unwrap();
        let before = anonymous();
        let request = grpc(&ReadRequest { queries: queries.clone() });
        let mut unread = Vec::new();
        for _ in 0..3 {
            unread.push(begin_many(&socket, "/keyhole.v1.Broker/Read", &request, 4).await);
        }
        // Longer than all of them together may hold the permit while another waits.
        let answers = read_numbers(&mut client, queries).await.unwrap();
        assert!(answers.iter().all(|answer| answer.outcome == Outcome::Ok));
        tokio::time::sleep(Duration::from_secs(3)).await;
        let buffered = anonymous().saturating_sub(before);
        assert!(buffered < 6 << 10, "{buffered} KiB are in use for 12 responses of 1 MiB");
        drop(unread);
    });
}

#[test]
fn a_client_that_disconnects_leaves_the_queue() {
    let environment = new_environment();
    environment.write("proc/1/net/dev", &"x".repeat(4 << 20));
    environment.write("proc/loadavg", "1");
    let broker = environment.start_broker(&environment.fixture_flags());
    let socket = environment.socket();
    broker.ask(|mut client| async move {
        let request = grpc(&ReadRequest { queries: vec![Query::NetDev as i32] });
        let _unread = start_call(&socket, "/keyhole.v1.Broker/Read", &request).await;
        // More than the streams of one connection.
        for _ in 0..6 {
            let waiting = read(&mut client, &[Query::Loadavg]);
            assert!(tokio::time::timeout(Duration::from_millis(10), waiting).await.is_err());
        }
        let start = Instant::now();
        let answers = read(&mut client, &[Query::Loadavg]).await.unwrap();
        assert_eq!(answers[0].outcome, Outcome::Ok);
        assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    });
}

#[test]
fn a_client_that_reads_slowly_gets_everything() {
    let environment = new_environment();
    environment.write("proc/1/net/dev", &"x".repeat(4 << 20));
    let broker = environment.start_broker(&environment.fixture_flags());
    let socket = environment.socket();
    broker.ask(|_| async move {
        let request = grpc(&ReadRequest { queries: vec![Query::NetDev as i32] });
        let mut answer = start_call(&socket, "/keyhole.v1.Broker/Read", &request).await;
        let mut bytes = 0;
        for _ in 0..5 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let mut part = 0;
            while part < 512 << 10 {
                let data = answer.0.body_mut().data().await.unwrap().unwrap();
                answer.0.body_mut().flow_control().release_capacity(data.len()).unwrap();
                part += data.len();
            }
            bytes += part;
        }
        let (status, rest) = finish(answer).await;
        assert_eq!(status, Some(Code::Ok as i32));
        assert!(bytes + rest > 4 << 20);
    });
}
