//! What other clients ask for, or do not read, does not affect Prometheus.

mod in_process;

use std::time::Duration;

use in_process::Exporter;
use keyhole_exporter::http::Client;
use keyhole_proto::v1::Query;
use keyhole_test_support::fake_broker::{FakeBroker, Script};
use keyhole_test_support::http::Response;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, timeout};

fn directory() -> (tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("b.sock");
    (dir, socket)
}

/// As many different selections as eight collectors make.
fn selections() -> impl Iterator<Item = String> {
    const NAMES: [&str; 8] = ["loadavg", "time", "meminfo", "vmstat", "stat", "filefd", "entropy", "netstat"];
    (1_usize..200).map(|bits| {
        let chosen = NAMES.iter().enumerate().filter(|(at, _)| bits >> at & 1 == 1);
        let parameters: Vec<_> = chosen.map(|(_, name)| format!("collect[]={name}")).collect();
        format!("/metrics?{}", parameters.join("&"))
    })
}

const MORE: [&str; 6] = [
    "--collector.meminfo",
    "--collector.vmstat",
    "--collector.stat",
    "--collector.filefd",
    "--collector.entropy",
    "--collector.netstat",
];

#[tokio::test]
async fn many_selections_are_answered_from_few_reads() {
    let (_dir, socket) = directory();
    let broker = FakeBroker::start(&socket, Script::default());
    let exporter = Exporter::start(&socket, &[&MORE[..], &["--web.max-requests=0"]].concat());
    let start = Instant::now();
    let asked = futures(selections().map(|path| async { (exporter.get(&path).await, path) })).await;
    let seconds = start.elapsed().as_secs() as usize + 1;
    for (answer, path) in &asked {
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        let asks_for = |collector: &str| path.contains(&format!("={collector}"));
        assert_eq!(answer.has_line("node_load1 0.5"), asks_for("loadavg"), "{path}");
        for collector in ["loadavg", "time", "meminfo", "netstat"] {
            let ran = answer
                .text()
                .contains(&format!("node_scrape_collector_success{{collector=\"{collector}\"}}"));
            assert_eq!(ran, asks_for(collector), "{path}: {collector}");
        }
        if path == "/metrics?collect[]=loadavg" {
            assert!(
                answer.has_line("keyhole_queries{outcome=\"ok\"} 1"),
                "only its own query: {}",
                answer.text()
            );
        }
    }
    assert!(
        broker.reads() <= 10 + 6 * seconds,
        "{} reads for {} in {seconds} s",
        broker.reads(),
        asked.len()
    );
    let whole = exporter.get("/metrics").await.text();
    let shared = value(&whole, "keyhole_selections_from_shared_read_total");
    assert!(shared as usize >= asked.len() - 10 - 6 * seconds, "{shared}");
}

#[tokio::test]
async fn many_selections_are_answered_by_a_host_whose_read_takes_longer_than_it_is_shared() {
    let (_dir, socket) = directory();
    let script = Script { delay: Duration::from_millis(1200), ..Script::default() };
    let broker = FakeBroker::start(&socket, script);
    let exporter = Exporter::start(&socket, &[&MORE[..], &["--web.max-requests=0"]].concat());
    // Five have reads of their own, one after the other; the others share two at most.
    let timeout = [("X-Prometheus-Scrape-Timeout-Seconds", "30")];
    let ask = |path: String| async { (exporter.request("GET", &path, &timeout).await, path) };
    let asked = futures(selections().take(30).map(ask)).await;
    for (answer, path) in &asked {
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    }
    assert!(broker.reads() <= 12, "{} reads", broker.reads());
}

#[tokio::test]
async fn a_selection_now_and_then_has_a_read_of_its_own_queries() {
    let (_dir, socket) = directory();
    let broker = FakeBroker::start(&socket, Script::default());
    let exporter = Exporter::start(&socket, &MORE);
    for _ in 0..3 {
        exporter.get("/metrics?collect[]=loadavg").await;
    }
    assert_eq!(broker.reads(), 3);
    assert_eq!(*broker.calls.queries.lock().unwrap(), [Query::Loadavg], "of the last");
}

#[tokio::test]
async fn a_selection_whose_client_has_disconnected_is_not_read() {
    let (_dir, socket) = directory();
    let script = Script { delay: Duration::from_millis(800), ..Script::default() };
    let broker = FakeBroker::start(&socket, script);
    let exporter = Exporter::start(&socket, &[]);
    let scraper = &exporter.scraper;
    let one = scraper.select(&["time".to_owned(), "loadavg".to_owned()], &[]).unwrap();
    let other = scraper.select(&["loadavg".to_owned()], &[]).unwrap();
    assert!(scraper.is_all(&one) && !scraper.is_all(&other));
    let deadline = Instant::now() + Duration::from_secs(60);
    let abandoned =
        |selection| timeout(Duration::from_millis(100), scraper.scrape(Client::UNKNOWN, selection, deadline));
    let start = Instant::now();
    assert!(abandoned(other.clone()).await.is_err());
    tokio::time::sleep(Duration::from_millis(10)).await;
    // Its read would be under way still, and shared.
    let shared = scraper.scrape(Client::UNKNOWN, other, deadline).await;
    assert!(shared.is_ok() && start.elapsed() > Duration::from_millis(900), "{:?}", start.elapsed());
    // One of everything goes on.
    let before = broker.reads();
    assert!(abandoned(one.clone()).await.is_err());
    tokio::time::sleep(Duration::from_millis(10)).await;
    let shared = scraper.scrape(Client::UNKNOWN, one, deadline).await;
    assert!(shared.is_ok());
    assert_eq!(broker.reads(), before + 1, "it is shared");
}

#[tokio::test]
async fn a_full_scrape_is_answered_when_selections_have_every_permit() {
    let (_dir, socket) = directory();
    let script = Script { delay: Duration::from_millis(300), ..Script::default() };
    let _broker = FakeBroker::start(&socket, script);
    let exporter = Exporter::start(&socket, &["--web.max-requests=1"]);
    let whole = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        exporter.get("/metrics").await
    };
    let (selection, whole) = tokio::join!(exporter.get("/metrics?collect[]=loadavg"), whole);
    assert_eq!((selection.status, whole.status), (200, 200));
}

#[tokio::test]
async fn a_client_with_a_short_timeout_does_not_shorten_the_scrapes_of_others() {
    let (_dir, socket) = directory();
    let script = Script { delay: Duration::from_millis(1200), ..Script::default() };
    let _broker = FakeBroker::start(&socket, script);
    let exporter = Exporter::start(&socket, &[]);
    let slow = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        exporter.request("GET", "/metrics", &[("X-Prometheus-Scrape-Timeout-Seconds", "9")]).await
    };
    let hurried = exporter.request("GET", "/metrics", &[("X-Prometheus-Scrape-Timeout-Seconds", "1.6")]);
    let (hurried, slow) = tokio::join!(hurried, slow);
    assert_eq!((hurried.status, slow.status), (503, 200), "{}", slow.text());
    assert!(slow.has_line("node_load1 0.5"));
}

/// Clients that ask and take nothing of a page that is larger than what the system keeps for them.
async fn takes_nothing(exporter: &Exporter, path: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(2048).unwrap();
    let mut stream = socket.connect(exporter.address).await.unwrap();
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await.unwrap();
    stream
}

/// A broker whose page of softirqs has several megabytes.
fn large_page() -> Script {
    let interrupts: String = (0..60_000).map(|n| format!("Line{n}: 1\n")).collect();
    let text = format!("                    CPU0\n{interrupts}");
    Script { files: vec![(Query::Softirqs, "proc/softirqs", text.into_bytes())], ..Script::default() }
}

const LARGE: [&str; 2] = ["--collector.softirqs", "--collector.series-limit=0"];

#[tokio::test]
async fn answers_that_nobody_reads_are_bounded_and_dropped() {
    let (_dir, socket) = directory();
    let _broker = FakeBroker::start(&socket, large_page());
    let exporter = Exporter::start(&socket, &LARGE);
    let page = exporter.get("/metrics").await.body.len();
    assert!(page > 2 << 20, "{page}");
    let mut connections = Vec::new();
    for n in 0..40 {
        let path = format!("/metrics?name[]=node_softirqs_functions_total&name[]=x{n}");
        connections.push(takes_nothing(&exporter, &path).await);
    }
    let closed = "keyhole_connections_closed_total{reason=\"unread\"}";
    let (mut most, mut given_way) = (0, 0.0);
    let start = Instant::now();
    while given_way == 0.0 && start.elapsed() < Duration::from_secs(20) {
        let answer = exporter.get("/metrics").await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        given_way = value(&answer.text(), closed);
        most = most.max(exporter.scraper.unread.bytes());
    }
    assert!(given_way > 0.0, "{most} bytes are not taken");
    // Pages of everything are made below 12 MiB; besides the last of them there may be the page of a selection that was
    // let in before, and what it is cut from.
    assert!(most < (12 << 20) + 3 * page, "{most} bytes, pages of {page}");
    drop(connections);
    let freed = async {
        while exporter.scraper.unread.bytes() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(5), freed)
        .await
        .expect("nothing is buffered for a client that has disconnected");
}

#[tokio::test]
async fn a_request_is_in_flight_until_its_response_is_read() {
    let (_dir, socket) = directory();
    let _broker = FakeBroker::start(&socket, large_page());
    let exporter = Exporter::start(&socket, &LARGE);
    let mut slow = takes_nothing(&exporter, "/metrics").await;
    tokio::time::sleep(Duration::from_millis(800)).await;
    let in_flight = || exporter.scraper.server_metrics.in_flight.get();
    assert_eq!(in_flight(), 1, "it is answered, and not taken");
    slow.write_all(b"GET /-/healthy HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    slow.read_to_end(&mut answer).await.unwrap();
    assert_eq!(in_flight(), 0);
}

#[tokio::test]
async fn a_new_connection_is_accepted_among_many_busy_ones() {
    let (_dir, socket) = directory();
    let _broker = FakeBroker::start(&socket, Script::default());
    let exporter = Exporter::start(&socket, &[]);
    let address = exporter.address;
    // Each asks again as soon as it is answered, and comes back when it is closed.
    let busy: Vec<_> = (0..300)
        .map(|_| {
            tokio::spawn(async move {
                loop {
                    // Ports in TIME_WAIT are not used up.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    let Ok(mut stream) = TcpStream::connect(address).await else { continue };
                    let mut answer = [0; 4096];
                    while stream.write_all(b"GET /-/healthy HTTP/1.1\r\nHost: x\r\n\r\n").await.is_ok()
                        && stream.read(&mut answer).await.is_ok_and(|read| read > 0)
                    {}
                }
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(500)).await;
    for _ in 0..3 {
        let answer =
            timeout(Duration::from_secs(10), exporter.get("/metrics")).await.expect("a place in time");
        assert_eq!(answer.status, 200);
    }
    busy.iter().for_each(tokio::task::JoinHandle::abort);
}

fn value(text: &str, series: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(series)).unwrap_or_else(|| panic!("{series}"));
    line.trim().parse().unwrap()
}

/// Waits for all, side by side.
async fn futures<F: Future<Output = (Response, String)>>(all: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut pending: Vec<_> = all.map(Box::pin).collect();
    let mut done = Vec::new();
    std::future::poll_fn(|cx| {
        pending.retain_mut(|future| match future.as_mut().poll(cx) {
            std::task::Poll::Ready(output) => {
                done.push(output);
                false
            }
            std::task::Poll::Pending => true,
        });
        if pending.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    done
}
