//! Attacks on the exporter's port, from outside and against the real programs: what it uses is bounded, and Prometheus
//! gets its answer within a second all the while.

mod target;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use keyhole_test_support::{Environment, http};
use target::Target;

/// Everything that comes back for `request` until the end of the connection.
fn exchange(address: SocketAddr, request: &[u8]) -> Vec<u8> {
    http::exchange(http::connect(address).expect("the exporter accepts"), request)
}

const PAUSE: Duration = Duration::from_millis(50);

/// Opens `many` connections, sends `head` on each, then a byte at a time; opens another for each that is closed.
fn drip(address: SocketAddr, stop: &AtomicBool, many: usize, head: &str, byte: &[u8]) {
    let open = || http::connect(address).ok().filter(|mut stream| stream.write_all(head.as_bytes()).is_ok());
    let mut streams: Vec<Option<TcpStream>> = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        if streams.len() < many {
            streams.push(open());
            continue;
        }
        for slot in &mut streams {
            if slot.as_mut().is_none_or(|stream| stream.write_all(byte).is_err()) {
                *slot = open();
            }
        }
        std::thread::sleep(PAUSE);
    }
}

#[test]
fn headers_that_arrive_slowly_delay_nobody() {
    let Some(target) = Target::measurable() else { return };
    target.assert_serves_during("slow heads", 4, |address, stop| {
        drip(address, stop, 40, "GET /metrics HTTP/1.1\r\nX-A: ", b"a")
    });
}

#[test]
fn bodies_that_arrive_slowly_delay_nobody() {
    let Some(target) = Target::measurable() else { return };
    let head = "POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n";
    target.assert_serves_during("slow bodies", 4, |address, stop| drip(address, stop, 40, head, b"a"));
    let head = "GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nfffff\r\n";
    target.assert_serves_during("slow chunks", 4, |address, stop| drip(address, stop, 40, head, b"a"));
}

#[test]
fn a_thousand_idle_connections_delay_nobody() {
    let Some(target) = Target::measurable() else { return };
    target
        .assert_serves_during("1,000 idle connections", 4, |address, stop| drip(address, stop, 250, "", b""));
}

#[test]
fn headers_beyond_every_limit_are_refused_and_take_no_memory() {
    let Some(target) = Target::measurable() else { return };
    let address = target.exporter.address;
    let many: String = (0..500).map(|n| format!("X-{n}: y\r\n")).collect();
    let long = "x".repeat(1 << 20);
    let requests = [
        (format!("GET / HTTP/1.1\r\nHost: x\r\n{many}\r\n"), "431"),
        (format!("GET / HTTP/1.1\r\nHost: x\r\nX-Long: {long}\r\n\r\n"), "431"),
        (format!("GET /{long} HTTP/1.1\r\nHost: x\r\n\r\n"), "4"),
        (format!("{long} / HTTP/1.1\r\nHost: x\r\n\r\n"), "4"),
    ];
    for (request, status) in &requests {
        let answer = exchange(address, request.as_bytes());
        let answer = String::from_utf8_lossy(&answer);
        let refused = answer.starts_with(&format!("HTTP/1.1 {status}")) || answer.is_empty();
        assert!(refused, "{:?}: {answer:?}", &request[..40]);
    }
    target.assert_serves_during("huge heads", 8, |address, stop| {
        while !stop.load(Ordering::Relaxed) {
            for (request, _) in &requests {
                exchange(address, request.as_bytes());
            }
        }
    });
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    const MANY: usize = 300;
    let Some(target) = Target::measurable() else { return };
    let pipeline = |last: &str| {
        let one =
            "GET /-/healthy HTTP/1.1\r\nHost: x\r\n\r\nGET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n".repeat(MANY);
        format!("{one}GET {last} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    };
    let answer = exchange(target.exporter.address, pipeline("/").as_bytes());
    let answer = String::from_utf8_lossy(&answer);
    let statuses: Vec<&str> = answer.split("HTTP/1.1 ").skip(1).map(|answer| &answer[..3]).collect();
    assert_eq!(statuses.len(), 2 * MANY + 1);
    assert!(
        statuses.chunks(2).all(|pair| pair[0] == "200" && pair.get(1).is_none_or(|status| *status == "404"))
    );
    target.assert_serves_during("pipelining", 4, |address, stop| {
        while !stop.load(Ordering::Relaxed) {
            exchange(address, pipeline("/metrics").as_bytes());
        }
    });
}

#[test]
fn clients_that_never_read_delay_nobody() {
    let Some(target) = Target::measurable() else { return };
    let head = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n".repeat(100);
    target.assert_serves_during("never reading", 4, |address, stop| drip(address, stop, 40, &head, b""));
}

#[test]
fn connection_churn_delays_nobody() {
    let Some(target) = Target::measurable() else { return };
    target.assert_serves_during("churn", 4, |address, stop| {
        while !stop.load(Ordering::Relaxed) {
            let Ok(mut stream) = http::connect(address) else { continue };
            let _ = stream.write_all(b"GET /-/healthy HTTP/1.1\r\nHo");
            if rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).is_err() {
                return;
            }
        }
    });
}

/// "secret", at a cost that a check takes some 50 ms with: an unoptimised build is slower.
const HASH: &str = if cfg!(debug_assertions) {
    "$2a$06$t4k434CMk7EaAP8UoJk44.N8tFC6mb1420AM2ghemE8vW1JW72bMS"
} else {
    "$2a$10$COnQlwAv7fED0V0O.dWAJ.SL7XWCqzrAS3qModKdmyE0FJvMvAhDe"
};

/// A connection from an address of 127.0.0.0/8, which all are this host.
fn connect_from(from: [u8; 4], to: SocketAddr) -> TcpStream {
    use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&socket, &SocketAddr::from((from, 0))).unwrap();
    connect(&socket, &to).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

/// The status of a request with a password, on a connection that stays open.
fn ask_with(stream: &mut TcpStream, password: &str) -> Option<String> {
    use base64::Engine as _;
    let encoded = base64::engine::general_purpose::STANDARD.encode(password);
    write!(stream, "GET /-/healthy HTTP/1.1\r\nHost: x\r\nAuthorization: Basic {encoded}\r\n\r\n").ok()?;
    let mut answer = String::new();
    let mut buffer = [0; 4096];
    while !answer.contains("\r\n\r\n") {
        let length = stream.read(&mut buffer).ok().filter(|length| *length > 0)?;
        answer.push_str(&String::from_utf8_lossy(&buffer[..length]));
    }
    answer.split(' ').nth(1).map(str::to_owned)
}

#[test]
fn wrong_passwords_do_not_delay_a_right_one() {
    const ATTACKERS: usize = 60;
    let environment = Environment::new();
    let config = environment.dir().join("web");
    std::fs::create_dir(&config).unwrap();
    let file = config.join("web.yaml");
    // Each has the same password, and none was seen before.
    let users: String = (0..6).map(|user| format!("  user{user}: {HASH}\n")).collect();
    std::fs::write(&file, format!("basic_auth_users:\n{users}")).unwrap();
    let exporter = environment.start_exporter(&[format!("--web.config.file={}", file.display())]);
    let (address, stop) = (exporter.address, AtomicBool::new(false));
    // The second half of them reconnects for each password.
    let attack = |attacker: usize| {
        let mut stream = connect_from([127, 0, 0, 1], address);
        for number in 0.. {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            let status = ask_with(&mut stream, &format!("user0:{attacker} {number}"));
            assert!(matches!(status.as_deref(), Some("401" | "503")), "{status:?}");
            if attacker >= ATTACKERS / 2 {
                stream = connect_from([127, 0, 0, 1], address);
            }
        }
    };
    std::thread::scope(|scope| {
        let _stop = target::StopAtEnd(&stop);
        let attack = &attack;
        (0..ATTACKERS).for_each(|attacker| _ = scope.spawn(move || attack(attacker)));
        std::thread::sleep(Duration::from_secs(4));
        for user in 0..6 {
            let from = [127, 0, 0, if user < 3 { 2 } else { 1 }];
            let begun = std::time::Instant::now();
            let status = ask_with(&mut connect_from(from, address), &format!("user{user}:secret"));
            eprintln!("user{user} from {from:?}: {status:?} after {:.2?}", begun.elapsed());
            assert_eq!(status.as_deref(), Some("200"), "user{user}");
            // From another address it is the next; from the same one it waits for those that came before.
            let limit = Duration::from_secs(if user < 3 { 2 } else { 5 });
            assert!(begun.elapsed() < limit, "user{user} from {from:?}: {:?}", begun.elapsed());
        }
    });
}

#[test]
fn a_client_that_closed_its_half_gets_its_answer() {
    let target = Target::new();
    for path in ["/", "/metrics"] {
        let mut stream = http::connect(target.exporter.address).unwrap();
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer:?}");
    }
}

/// What is no request of HTTP/1, or is one that two readers may read differently.
const MALFORMED: &[(&str, &[u8])] = &[
    ("HTTP/0.9", b"GET /metrics\r\n\r\n"),
    ("HTTP/2 with prior knowledge", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"),
    ("HTTP/3.7", b"GET /metrics HTTP/3.7\r\nHost: x\r\n\r\n"),
    ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
    ("no method", b" /metrics HTTP/1.1\r\nHost: x\r\n\r\n"),
    ("a NUL in the path", b"GET /met\0rics HTTP/1.1\r\nHost: x\r\n\r\n"),
    ("a NUL in a header", b"GET /metrics HTTP/1.1\r\nHost: x\0y\r\n\r\n"),
    ("a space before a colon", b"GET /metrics HTTP/1.1\r\nHost : x\r\n\r\n"),
    ("a folded header", b"GET /metrics HTTP/1.1\r\nHost: x\r\n folded\r\n\r\n"),
    ("a bare CR", b"GET /metrics HTTP/1.1\rHost: x\r\r"),
    ("two lengths", b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"),
    ("a length below zero", b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n"),
    ("a length with a sign", b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: +5\r\n\r\nGET /"),
    ("an absurd length", b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999999\r\n\r\n"),
    ("chunked not last", b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n"),
    ("an unknown coding", b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
    ("a chunked answer to HTTP/1.0", b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
];

#[test]
fn malformed_requests_are_refused_and_their_connections_closed() {
    let target = Target::new();
    for (what, request) in MALFORMED {
        // Were the connection to go on, this would be answered.
        let request =
            [request, &b"GET /-/healthy HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"[..]].concat();
        let answer = exchange(target.exporter.address, &request);
        let answer = String::from_utf8_lossy(&answer);
        assert!(!answer.contains("HTTP/1.1 200"), "{what}: {answer}");
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{what}: {answer}");
        assert_eq!(target.exporter.get("/").status, 200, "after {what}");
    }
    target.exporter.scrape();
}

#[test]
fn a_body_is_never_taken_for_a_request() {
    let target = Target::new();
    let inner = "GET /-/healthy HTTP/1.1\r\nHost: x\r\n\r\n";
    let shapes = [
        format!("POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{inner}", inner.len()),
        format!(
            "POST /metrics HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{inner}\r\n0\r\n\r\n",
            inner.len()
        ),
        format!(
            "POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{inner}",
            5 + inner.len()
        ),
        format!("POST /metrics HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{inner}"),
        format!(
            "POST /metrics HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n{inner}"
        ),
    ];
    for shape in &shapes {
        let mut stream = http::connect(target.exporter.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(400))).unwrap();
        stream.write_all(shape.as_bytes()).unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with("HTTP/1.1 40"), "{shape}: {answer}");
        assert!(!answer.contains("HTTP/1.1 200"), "{shape}: {answer}");
    }
}

#[test]
fn odd_but_valid_requests_are_answered_like_any_other() {
    let target = Target::new();
    let get = |head: &str| format!("{head}Host: x\r\nConnection: close\r\n\r\n");
    for (request, status) in [
        (get("GET /metrics HTTP/1.0\r\n"), "200"),
        (get("HEAD /metrics HTTP/1.1\r\n"), "200"),
        (get("GET http://elsewhere/metrics HTTP/1.1\r\n"), "200"),
        (get("GET /metrics?collect[]=loadavg&x=%ff%00 HTTP/1.1\r\n"), "200"),
        (get("GET /metrics?collect[]=%ff HTTP/1.1\r\n"), "400"),
        (get("GET /%6detrics HTTP/1.1\r\n"), "200"),
        (get("GET /../metrics HTTP/1.1\r\n"), "307"),
        (get("GET /%2e%2e/metrics HTTP/1.1\r\n"), "404"),
        (get("BREW /metrics HTTP/1.1\r\n"), "405"),
        (get("OPTIONS * HTTP/1.1\r\n"), "40"),
        (get("CONNECT elsewhere:443 HTTP/1.1\r\n"), "40"),
        (get("GET /metrics HTTP/1.1\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"), "200"),
        (get("GET /metrics HTTP/1.1\r\nX-Prometheus-Scrape-Timeout-Seconds: NaN\r\n"), "200"),
        (get("GET /metrics HTTP/1.1\r\nAccept-Encoding: \u{ff}gzip;q=1e999\r\n"), "200"),
    ] {
        let answer = exchange(target.exporter.address, request.as_bytes());
        let answer = String::from_utf8_lossy(&answer);
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}"))
                || answer.starts_with(&format!("HTTP/1.0 {status}")),
            "{request}: {answer}"
        );
    }
}
