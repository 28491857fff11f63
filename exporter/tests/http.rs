//! The exporter over real HTTP, before a broker that answers as the test says.

mod in_process;

use std::io::Read;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use in_process::Exporter;
use keyhole_exporter::http::listen;
use keyhole_exporter::http::web_config::WebConfig;
use keyhole_proto::v1::{Outcome, Query};
use keyhole_test_support::fake_broker::{FakeBroker, Script};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixListener};

fn directory() -> (tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("broker.sock");
    (dir, socket)
}

#[tokio::test]
async fn a_scrape_has_the_hosts_metrics_and_the_exporters_own() {
    let (_dir, socket) = directory();
    let broker = FakeBroker::start(&socket, Script::default());
    let exporter = Exporter::start(&socket, &[]);
    let answer = exporter.get("/metrics").await;
    assert_eq!(answer.status, 200);
    assert!(
        answer.head.contains("content-type: text/plain; version=0.0.4; charset=utf-8; escaping=underscores"),
        "{}",
        answer.head
    );
    for line in [
        "node_load1 0.5",
        "node_scrape_collector_success{collector=\"loadavg\"} 1",
        "keyhole_broker_up 1",
        "keyhole_broker_sandbox_layer{layer=\"seccomp\",process=\"broker\"} 1",
        "keyhole_broker_reads_total 7",
        "keyhole_queries{outcome=\"ok\"} 1",
        "promhttp_metric_handler_requests_in_flight 1",
        "promhttp_metric_handler_requests_total{code=\"200\"} 0",
    ] {
        assert!(answer.has_line(line), "{line} is missing in {}", answer.text());
    }
    assert_eq!(*broker.calls.queries.lock().unwrap(), [Query::Loadavg, Query::Clocksource]);
    assert!(answer.head.contains("x-content-type-options: nosniff"), "{}", answer.head);
    assert!(
        exporter.get("/metrics").await.has_line("promhttp_metric_handler_requests_total{code=\"200\"} 1")
    );
    assert_eq!(broker.calls.describes.load(Ordering::SeqCst), 1, "the description is cached for a while");
}

#[tokio::test]
async fn the_exporters_own_metrics_can_be_left_out() {
    let (_dir, socket) = directory();
    let _broker = FakeBroker::start(&socket, Script::default());
    let exporter = Exporter::start(&socket, &["--web.disable-exporter-metrics"]);
    let text = exporter.get("/metrics").await.text();
    assert!(!text.contains("promhttp_") && !text.contains("process_"));
    assert!(text.contains("node_exporter_build_info{") && text.contains("node_scrape_collector_success{"));
    assert!(text.contains("\nkeyhole_queries{outcome=\"ok\"} 1\n"), "{text}");
}

#[tokio::test]
async fn each_query_and_collector_that_succeeds_is_listed_with_scrape_detail_only() {
    let (_dir, socket) = directory();
    let _broker = FakeBroker::start(&socket, Script::default());
    let text = Exporter::start(&socket, &[]).get("/metrics").await.text();
    assert!(!text.contains("keyhole_query_") && !text.contains("keyhole_collector_"), "{text}");
    let detailed = Exporter::start(&socket, &["--scrape.detail"]).get("/metrics").await;
    for line in [
        "keyhole_query_outcome{outcome=\"ok\",query=\"loadavg\"} 1",
        "keyhole_query_bytes{query=\"loadavg\"} 16",
        "keyhole_collector_series{collector=\"loadavg\"} 3",
        "keyhole_collector_series_dropped_total{collector=\"loadavg\"} 0",
        "keyhole_queries{outcome=\"ok\"} 1",
    ] {
        assert!(detailed.has_line(line), "{line} is missing in {}", detailed.text());
    }
}

#[tokio::test]
async fn a_collector_at_its_limit_fails_and_what_was_dropped_adds_up_over_scrapes() {
    let (_dir, socket) = directory();
    let _broker = FakeBroker::start(&socket, Script::default());
    let exporter = Exporter::start(&socket, &["--collector.series-limit=2"]);
    for dropped in [1, 2] {
        let answer = exporter.get("/metrics?collect[]=loadavg").await;
        assert!(answer.has_line("node_load5 1") && !answer.has_line("node_load15 1.5"), "{}", answer.text());
        let line = format!("keyhole_collector_series_dropped_total{{collector=\"loadavg\"}} {dropped}");
        assert!(answer.has_line(&line), "{}", answer.text());
        assert!(
            answer.has_line("node_scrape_collector_success{collector=\"loadavg\"} 0"),
            "{}",
            answer.text()
        );
        assert!(answer.has_line("keyhole_series_limit 2"), "{}", answer.text());
    }
    let unlimited = Exporter::start(&socket, &["--collector.series-limit=0"]);
    let answer = unlimited.get("/metrics").await;
    assert!(answer.has_line("node_load15 1.5"), "{}", answer.text());
    assert!(!answer.text().contains("keyhole_collector_series_dropped_total"), "{}", answer.text());
    assert!(answer.has_line("keyhole_series_limit +Inf"), "{}", answer.text());
    assert!(answer.has_line("keyhole_scrape_memory_bytes 134217728"), "{}", answer.text());
}

#[tokio::test]
async fn an_absent_broker_is_503_with_its_reason_and_the_other_pages_work() {
    let (_dir, socket) = directory();
    let exporter = Exporter::start(&socket, &[]);
    let answer = exporter.get("/metrics").await;
    assert_eq!(answer.status, 503);
    assert!(answer.text().starts_with("cannot reach the broker at "), "{}", answer.text());
    assert_eq!(answer.text().lines().count(), 1);
    assert_eq!(exporter.get("/-/healthy").await.status, 200);
    assert_eq!(exporter.get("/-/ready").await.status, 503);
    let landing = exporter.get("/").await;
    assert_eq!(landing.status, 200);
    assert!(landing.text().contains("<title>Node Exporter</title>"));
    assert!(landing.text().contains("<a href=\"/metrics\">"));
    let own = exporter.get("/metrics?collect[]=time").await;
    assert_eq!(own.status, 503, "the time collector asks for clock sources too");
}

#[tokio::test]
async fn one_failed_query_fails_its_collector_and_nothing_else() {
    let (_dir, socket) = directory();
    let script = Script { outcomes: vec![(Query::Loadavg, Outcome::Stuck)], ..Script::default() };
    let _broker = FakeBroker::start(&socket, script);
    let exporter = Exporter::start(&socket, &[]);
    let answer = exporter.get("/metrics").await;
    assert_eq!(answer.status, 200);
    assert!(answer.has_line("node_scrape_collector_success{collector=\"loadavg\"} 0"));
    assert!(answer.has_line("node_scrape_collector_success{collector=\"time\"} 1"));
}

#[tokio::test]
async fn a_refused_read_is_503_on_one_line() {
    let (_dir, socket) = directory();
    let script = Script { refuses: Some(tonic::Code::PermissionDenied), ..Script::default() };
    let broker = FakeBroker::start(&socket, script);
    let exporter = Exporter::start(&socket, &[]);
    let answer = exporter.get("/metrics").await;
    assert_eq!(answer.status, 503);
    assert_eq!(answer.text(), "the broker refused: PermissionDenied: as the test says in two lines\n");
    assert_eq!(broker.reads(), 1, "what was refused is not asked again");
}

#[tokio::test]
async fn a_busy_broker_is_queried_again_while_there_is_time() {
    let busy = || Script { refuses: Some(tonic::Code::ResourceExhausted), ..Script::default() };
    let (_dir, socket) = directory();
    let broker = FakeBroker::start(&socket, Script { refusals: 3, ..busy() });
    let exporter = Exporter::start(&socket, &[]);
    assert_eq!(
        exporter.get("/metrics").await.status,
        200,
        "a client that asks often must not block the others"
    );
    assert_eq!(broker.reads(), 4);
    drop(broker);

    let _broker = FakeBroker::start(&socket, busy());
    let soon = [("X-Prometheus-Scrape-Timeout-Seconds", "1")];
    let answer = exporter.request("GET", "/metrics", &soon).await;
    assert_eq!(answer.status, 503);
    assert!(answer.text().starts_with("the broker refused: ResourceExhausted"), "{}", answer.text());
}

#[tokio::test]
async fn collectors_and_families_are_filtered_as_in_node_exporter() {
    let (_dir, socket) = directory();
    let broker = FakeBroker::start(&socket, Script::default());
    let exporter = Exporter::start(&socket, &[]);
    let text = exporter.get("/metrics?collect%5B%5D=loadavg").await.text();
    assert!(text.contains("node_load1 ") && !text.contains("collector=\"time\""));
    assert!(text.contains("process_"), "its own metrics stay");
    let text = exporter.get("/metrics?exclude[]=loadavg&exclude[]=nope").await.text();
    assert!(!text.contains("node_load1 ") && text.contains("collector=\"time\""));
    let reads = broker.reads();
    let text = exporter.get("/metrics?exclude[]=loadavg&exclude[]=time").await.text();
    assert!(!text.contains("node_scrape_collector"), "nothing is left, so nothing runs");
    assert_eq!(broker.reads(), reads);
    let text = exporter.get("/metrics?name[]=node_load1&name[]=node_load5").await.text();
    assert_eq!(text.lines().filter(|line| !line.starts_with('#')).count(), 2, "{text}");
    assert_eq!(exporter.get("/metrics?name[]=none").await.text(), "");

    let refused = |answer: keyhole_test_support::http::Response| (answer.status, answer.text());
    assert_eq!(
        refused(exporter.get("/metrics?collect[]=a&exclude[]=b").await),
        (400, "Combined collect and exclude queries are not allowed.\n".into())
    );
    let prefix = "Couldn't create filtered metrics handler: couldn't create collector: ";
    assert_eq!(
        refused(exporter.get("/metrics?collect[]=nope").await),
        (400, format!("{prefix}missing collector: nope\n"))
    );
    assert_eq!(
        refused(exporter.get("/metrics?collect[]=stat").await),
        (400, format!("{prefix}disabled collector: stat\n"))
    );
}

#[tokio::test]
async fn other_paths_and_methods_are_refused() {
    let (_dir, socket) = directory();
    let _broker = FakeBroker::start(&socket, Script::default());
    let exporter = Exporter::start(&socket, &["--web.telemetry-path=/m"]);
    for path in ["/metrics", "/m/", "/health", "/%2fm", "/%2e/m"] {
        assert_eq!(exporter.get(path).await.status, 404, "{path}");
    }
    let answer = exporter.request("POST", "/m", &[("Content-Length", "0")]).await;
    assert_eq!(answer.status, 405);
    assert!(answer.head.contains("allow: get, head"));
    let answer = exporter.request("HEAD", "/m", &[]).await;
    assert_eq!((answer.status, answer.body.len()), (200, 0));
    assert!(answer.head.contains("content-length: "));
    assert_eq!(exporter.get("/-/ready").await.status, 200);
}

#[tokio::test]
async fn a_telemetry_path_with_a_final_slash_answers_below_it_as_well() {
    let (_dir, socket) = directory();
    let _broker = FakeBroker::start(&socket, Script::default());
    let exporter = Exporter::start(&socket, &["--web.telemetry-path=/"]);
    for path in ["/", "/metrics", "/x/y", "/-/", "/-/ready/"] {
        assert!(exporter.get(path).await.has_line("node_load1 0.5"), "{path}");
    }
    assert_eq!(exporter.get("/-/healthy").await.text(), "the exporter is up\n");
    assert!(exporter.get("/-/ready").await.text().starts_with("the broker answers"));
    let exporter = Exporter::start(&socket, &["--web.telemetry-path=/a/m/"]);
    for path in ["/a/m/", "/a/%6d/", "/a/m/x/y"] {
        assert!(exporter.get(path).await.has_line("node_load1 0.5"), "{path}");
    }
    for path in ["/a", "/a/", "/a/mm", "/a/m%2fx", "/b/m/"] {
        assert_eq!(exporter.get(path).await.status, 404, "{path}");
    }
    let redirect = exporter.get("/a/m?collect[]=loadavg").await;
    assert_eq!(redirect.status, 307);
    assert!(redirect.head.contains("\r\nlocation: /a/m/?collect[]=loadavg\r\n"), "{}", redirect.head);
    assert!(exporter.get("/").await.text().contains("<h1"));
}

#[tokio::test]
async fn a_web_config_file_that_becomes_invalid_answers_each_request_with_500_until_it_is_corrected() {
    let (dir, socket) = directory();
    let _broker = FakeBroker::start(&socket, Script::default());
    let file = dir.path().join("web.yml");
    std::fs::write(&file, "").unwrap();
    let web_config = WebConfig::new(file.to_str().unwrap()).unwrap();
    let exporter = Exporter::start_with(&socket, &[], Some(web_config));
    assert_eq!(exporter.get("/metrics").await.status, 200);
    // An unknown field, no YAML, no file, and TLS, which would need a restart.
    let tls = "tls_server_config: {cert_file: a.crt, key_file: a.key}\n";
    for broken in [Some("nonsense: 1\n"), Some("a: [\n"), None, Some(tls)] {
        match broken {
            Some(text) => std::fs::write(&file, text).unwrap(),
            None => std::fs::remove_file(&file).unwrap(),
        }
        for path in ["/metrics", "/", "/-/healthy"] {
            let answer = exporter.get(path).await;
            assert_eq!(
                (answer.status, answer.text().as_str()),
                (500, "Internal Server Error\n"),
                "{broken:?} {path}"
            );
            assert!(answer.head.contains("content-type: text/plain; charset=utf-8"), "{}", answer.head);
        }
    }
    std::fs::write(&file, "http_server_config: {headers: {X-Frame-Options: deny}}\n").unwrap();
    let answer = exporter.get("/metrics").await;
    assert!(answer.status == 200 && answer.head.contains("x-frame-options: deny"), "{}", answer.head);
}

#[tokio::test]
async fn health_checks_need_no_password_on_their_own_address_which_has_no_other_page() {
    let (dir, socket) = directory();
    let _broker = FakeBroker::start(&socket, Script::default());
    let file = dir.path().join("web.yml");
    // "secret", at bcrypt's lowest cost.
    let hash = "$2b$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW";
    std::fs::write(&file, format!("basic_auth_users: {{prometheus: {hash}}}\n")).unwrap();
    let mut web_config = WebConfig::new(file.to_str().unwrap()).unwrap();
    web_config.start_password_thread().unwrap();
    let health = listen::bind("web.health-address", &["127.0.0.1:0".into()]).unwrap().remove(0);
    let address = health.local_addr().unwrap();
    let exporter = Exporter::start_with_health(&socket, &[], Some(web_config), Some(health));
    let get = |path: &'static str| Exporter::request_to(address, "GET", path, &[]);
    for path in ["/-/healthy", "/-/ready"] {
        assert_eq!(exporter.get(path).await.status, 401, "{path}");
        assert_eq!(get(path).await.status, 200, "{path}");
        assert_eq!(Exporter::request_to(address, "HEAD", path, &[]).await.status, 200, "{path}");
        assert_eq!(Exporter::request_to(address, "POST", path, &[]).await.status, 405, "{path}");
    }
    for path in ["/metrics", "/", "/-/", "/-/ready/x", "/metrics?collect[]=loadavg", "/favicon.ico"] {
        let answer = get(path).await;
        assert_eq!((answer.status, answer.text().as_str()), (404, "404 page not found\n"), "{path}");
    }
    let authorization = [("authorization", "Basic cHJvbWV0aGV1czpzZWNyZXQ=")];
    assert_eq!(exporter.request("GET", "/metrics", &authorization).await.status, 200);
    assert_eq!(Exporter::request_to(address, "GET", "/metrics", &authorization).await.status, 404);
    // Without a broker.
    let health = listen::bind("web.health-address", &["127.0.0.1:0".into()]).unwrap().remove(0);
    let address = health.local_addr().unwrap();
    let _exporter = Exporter::start_with_health(&dir.path().join("none"), &[], None, Some(health));
    let unready = Exporter::request_to(address, "GET", "/-/ready", &[]).await;
    assert!(unready.status == 503 && unready.text().contains("broker"), "{}", unready.text());
    assert_eq!(Exporter::request_to(address, "GET", "/-/healthy", &[]).await.status, 200);
}

#[tokio::test]
async fn a_path_that_is_not_clean_is_redirected_and_an_escaped_one_answers() {
    let (_dir, socket) = directory();
    let _broker = FakeBroker::start(&socket, Script::default());
    let exporter = Exporter::start(&socket, &[]);
    for (path, location) in [
        ("//metrics", "/metrics"),
        ("/./metrics?collect[]=loadavg&x=%zz", "/metrics?collect[]=loadavg&x=%zz"),
        ("/x/../nothing?", "/nothing"),
        ("//%6detrics", "/%6detrics"),
        ("//", "/"),
    ] {
        for method in ["GET", "HEAD", "POST"] {
            let answer = exporter.request(method, path, &[]).await;
            assert_eq!(answer.status, 307, "{method} {path}");
            assert!(answer.head.contains(&format!("\r\nlocation: {location}\r\n")), "{}", answer.head);
            let body = if method == "HEAD" { "" } else { "307 Temporary Redirect\n" };
            assert_eq!(answer.text(), body, "{method} {path}");
        }
    }
    let answer = exporter.get("/%6detrics?collect[]=loadavg&a;b").await;
    assert!(answer.status == 200 && answer.has_line("node_load1 0.5"), "{}", answer.text());
    assert!(!answer.text().contains("node_time_seconds"), "{}", answer.text());
    assert_eq!(exporter.get("/metrics?collect[]=loadavg;x").await.status, 400);
    assert_eq!(exporter.get("/metrics%zz").await.status, 400);
}

#[tokio::test]
async fn http_1_1_needs_one_host_that_can_be_one() {
    let (_dir, socket) = directory();
    let _broker = FakeBroker::start(&socket, Script::default());
    let exporter = Exporter::start(&socket, &[]);
    for (head, status) in [
        ("GET /metrics HTTP/1.1\r\n", "HTTP/1.1 400"),
        ("GET http://x/metrics HTTP/1.1\r\n", "HTTP/1.1 400"),
        ("GET /nothing HTTP/1.1\r\n", "HTTP/1.1 400"),
        ("GET /metrics HTTP/1.1\r\nHost: x\r\nHost: x\r\n", "HTTP/1.1 400"),
        ("GET /metrics HTTP/1.0\r\nHost: x\r\nHost: y\r\n", "HTTP/1.0 400"),
        ("GET /metrics HTTP/1.1\r\nHost: a b\r\n", "HTTP/1.1 400"),
        ("GET http://a<b/metrics HTTP/1.1\r\nHost: x\r\n", "HTTP/1.1 400"),
        ("GET http://[::1/metrics HTTP/1.1\r\nHost: x\r\n", "HTTP/1.1 400"),
        ("GET http://y/metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n", "HTTP/1.1 200"),
        ("GET /metrics HTTP/1.1\r\nHost:\r\n", "HTTP/1.1 200"),
        ("GET /metrics HTTP/1.0\r\n", "HTTP/1.0 200"),
    ] {
        let mut stream = TcpStream::connect(exporter.address).await.unwrap();
        // The refused ones end by themselves: nothing after them is taken for a request.
        let ends = if status.contains("200") { "Connection: close\r\n" } else { "" };
        stream.write_all(format!("{head}{ends}\r\n").as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer);
        tokio::time::timeout(Duration::from_secs(5), read).await.expect("an end").unwrap();
        assert!(answer.starts_with(status.as_bytes()), "{head}: {}", String::from_utf8_lossy(&answer));
    }
}

#[tokio::test]
async fn gzip_decodes_to_the_same_text() {
    let (_dir, socket) = directory();
    let _broker = FakeBroker::start(&socket, Script::default());
    let exporter = Exporter::start(&socket, &[]);
    for path in ["/metrics", "/metrics?name[]=node_load1"] {
        let answer = exporter.request("GET", path, &[("Accept-Encoding", "zstd, gzip;q=0.5")]).await;
        assert!(answer.head.contains("content-encoding: gzip"), "{}", answer.head);
        let mut text = String::new();
        flate2::read::GzDecoder::new(&answer.body[..]).read_to_string(&mut text).unwrap();
        assert!(text.contains("\nnode_load1 0.5\n"));
        let answer = exporter.request("GET", path, &[("Accept-Encoding", "gzip;q=0")]).await;
        assert!(!answer.head.contains("content-encoding"));
    }
}

#[tokio::test]
async fn scrapes_that_come_together_share_one_read() {
    let (_dir, socket) = directory();
    let script = Script { delay: Duration::from_millis(300), ..Script::default() };
    let broker = FakeBroker::start(&socket, script);
    let exporter = Exporter::start(&socket, &[]);
    let (one, two, other) = tokio::join!(
        exporter.get("/metrics"),
        exporter.get("/metrics?name[]=node_load1"),
        exporter.get("/metrics?collect[]=loadavg"),
    );
    assert!(
        one.has_line("node_load1 0.5") && two.has_line("node_load1 0.5") && other.has_line("node_load1 0.5")
    );
    assert_eq!(broker.reads(), 2, "one for two of the same collectors, one for others");
    exporter.get("/metrics").await;
    assert_eq!(broker.reads(), 3, "a later scrape reads again");
}

#[tokio::test]
async fn too_many_scrapes_are_refused() {
    let (_dir, socket) = directory();
    let script = Script { delay: Duration::from_millis(400), ..Script::default() };
    let _broker = FakeBroker::start(&socket, script);
    let exporter = Exporter::start(&socket, &["--web.max-requests=1"]);
    let (one, two) = tokio::join!(exporter.get("/metrics"), exporter.get("/metrics"));
    assert_eq!(one.status + two.status, 400, "they are one scrape");
    let selection = "/metrics?collect[]=loadavg";
    let (one, two) = tokio::join!(exporter.get(selection), exporter.get(selection));
    let refused = if one.status == 503 { &one } else { &two };
    assert_eq!(one.status + two.status, 703);
    assert_eq!(refused.text(), "Limit of concurrent requests reached (1), try again later.\n");
}

#[tokio::test]
async fn a_restarted_broker_is_found_without_losing_a_scrape() {
    let (_dir, socket) = directory();
    let first = FakeBroker::start(&socket, Script::default());
    let exporter = Exporter::start(&socket, &[]);
    assert_eq!(exporter.get("/metrics").await.status, 200);
    drop(first);
    assert_eq!(exporter.get("/metrics").await.status, 503);
    let _second = FakeBroker::start(&socket, Script { start_time_ms: 2, ..Script::default() });
    let answer = exporter.get("/metrics").await;
    assert_eq!(answer.status, 200);
    assert!(exporter.get("/metrics").await.has_line("keyhole_broker_restarts_seen_total 1"));
}

#[tokio::test]
async fn a_broker_replaced_between_two_scrapes_fails_neither() {
    let (_dir, socket) = directory();
    let first = FakeBroker::start(&socket, Script::default());
    let exporter = Exporter::start(&socket, &[]);
    assert_eq!(exporter.get("/metrics").await.status, 200);
    drop(first);
    let _second = FakeBroker::start(&socket, Script::default());
    assert_eq!(exporter.get("/metrics").await.status, 200);
}

#[tokio::test]
async fn a_broker_that_disconnects_is_queried_again_as_soon_as_it_listens() {
    // A busy machine may be late: once in so many times it is not.
    for _ in 0..20 {
        let (_dir, socket) = directory();
        let first = UnixListener::bind(&socket).unwrap();
        let exporter = Exporter::start(&socket, &[]);
        let restart = async {
            drop(first.accept().await.unwrap());
            drop(first);
            std::fs::remove_file(&socket).unwrap();
            (Instant::now(), FakeBroker::start(&socket, Script::default()))
        };
        let (answer, (restarted, _broker)) = tokio::join!(exporter.get("/metrics"), restart);
        assert_eq!(answer.status, 200, "{}", answer.text());
        if restarted.elapsed() < Duration::from_millis(90) {
            return;
        }
    }
    panic!("no scrape had its answer soon");
}

#[tokio::test]
async fn a_broker_killed_mid_scrape_is_503_or_answered_by_the_next() {
    let (_dir, socket) = directory();
    let first = FakeBroker::start(&socket, Script { delay: Duration::from_secs(30), ..Script::default() });
    let exporter = Exporter::start(&socket, &[]);
    let replace = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        drop(first);
        FakeBroker::start(&socket, Script::default())
    };
    let (answer, _second) = tokio::join!(exporter.get("/metrics"), replace);
    assert_eq!(answer.status, 200, "{}", answer.text());
}

#[tokio::test]
async fn a_hanging_broker_is_503_within_the_scrapes_own_time() {
    let (_dir, socket) = directory();
    let _broker = FakeBroker::start(&socket, Script { delay: Duration::from_secs(60), ..Script::default() });
    let exporter = Exporter::start(&socket, &[]);
    let start = Instant::now();
    let timeout = [("X-Prometheus-Scrape-Timeout-Seconds", "1")];
    let answer = exporter.request("GET", "/metrics", &timeout).await;
    assert_eq!(answer.status, 503);
    assert_eq!(answer.text(), "the broker did not answer in time\n");
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(300) && took < Duration::from_millis(950), "{took:?}");
}

#[tokio::test]
async fn what_a_hanging_broker_sent_before_is_not_lost() {
    let (_dir, socket) = directory();
    let script = Script { hangs_at: Some(Query::Clocksource), ..Script::default() };
    let _broker = FakeBroker::start(&socket, script);
    let exporter = Exporter::start(&socket, &[]);
    let timeout = [("X-Prometheus-Scrape-Timeout-Seconds", "1")];
    let answer = exporter.request("GET", "/metrics", &timeout).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(answer.has_line("node_load1 0.5"));
    assert!(answer.has_line("keyhole_query_outcome{outcome=\"timed_out\",query=\"clocksource\"} 1"));
}

#[tokio::test]
async fn a_stop_finishes_what_is_under_way_and_accepts_nothing_more() {
    let (_dir, socket) = directory();
    let script = Script { delay: Duration::from_millis(400), ..Script::default() };
    let _broker = FakeBroker::start(&socket, script);
    let mut exporter = Exporter::start(&socket, &[]);
    let mut idle = TcpStream::connect(exporter.address).await.unwrap();
    let address = exporter.address;
    let running = tokio::spawn(async move {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    });
    tokio::time::sleep(Duration::from_millis(150)).await;
    exporter.stop();
    assert!(running.await.unwrap().starts_with("HTTP/1.1 200"));
    exporter.served.join_next().await.unwrap().unwrap().unwrap();
    assert_eq!(idle.read(&mut [0; 8]).await.unwrap(), 0);
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn idle_connections_make_room_for_others() {
    let (_dir, socket) = directory();
    let _broker = FakeBroker::start(&socket, Script::default());
    let exporter = Exporter::start(&socket, &[]);
    let mut connections = Vec::new();
    let start = Instant::now();
    // All that are served at once, and some that wait.
    for _ in 0..200 {
        connections.push(TcpStream::connect(exporter.address).await.unwrap());
    }
    let answered = tokio::time::timeout(Duration::from_secs(8), exporter.get("/-/healthy")).await;
    assert_eq!(answered.expect("room is made in time").status, 200);
    assert!(start.elapsed() >= Duration::from_millis(200), "{:?}: nobody had idled so long", start.elapsed());
    let is_closed = |stream: &TcpStream| matches!(stream.try_read(&mut [0; 8]), Ok(0));
    let closed = connections.iter().filter(|stream| is_closed(stream)).count();
    assert!((1..192).contains(&closed), "{closed} gave way");
}

#[tokio::test]
async fn a_head_beyond_its_limit_is_refused() {
    let (_dir, socket) = directory();
    let exporter = Exporter::start(&socket, &[]);
    let long = "x".repeat(40 << 10);
    let answer = exporter.request("GET", "/", &[("X-Long", &long)]).await;
    assert_eq!(answer.status, 431);
}

#[tokio::test]
async fn requests_that_arrive_slowly_make_room_for_a_probe() {
    let (_dir, socket) = directory();
    let exporter = Exporter::start(&socket, &[]);
    let mut slow = Vec::new();
    for _ in 0..70 {
        let mut stream = TcpStream::connect(exporter.address).await.unwrap();
        slow.push(tokio::spawn(async move {
            while stream.write_all(b"G").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }));
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    let start = Instant::now();
    assert_eq!(exporter.get("/").await.status, 200);
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    slow.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn the_protobuf_form_and_the_text_are_of_one_scrape() {
    let (_dir, socket) = directory();
    let broker = FakeBroker::start(&socket, Script::default());
    let exporter = Exporter::start(&socket, &[]);
    let accept = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited";
    for (path, names) in [("/metrics", 2), ("/metrics?name[]=node_load1", 1)] {
        let answer = exporter.request("GET", path, &[("Accept", accept)]).await;
        assert_eq!(answer.status, 200);
        let media_type = format!("content-type: {}", accept.to_lowercase().replace(';', "; "));
        assert!(answer.head.contains(&format!("{media_type}; escaping=underscores")), "{}", answer.head);
        assert!(answer.head.contains("vary: accept, accept-encoding"), "{}", answer.head);
        // The name of a family, behind its tag and length.
        let has = |name: &str| {
            let field = [&[10, name.len() as u8], name.as_bytes()].concat();
            answer.body.windows(field.len()).filter(|window| *window == field).count()
        };
        assert_eq!((has("node_load1"), has("node_load5") + 1), (1, names), "{path}");
        let zipped = [("Accept", accept), ("Accept-Encoding", "gzip")];
        let answer = exporter.request("GET", path, &zipped).await;
        assert!(answer.head.contains("content-encoding: gzip"), "{}", answer.head);
        let mut bytes = Vec::new();
        flate2::read::GzDecoder::new(&answer.body[..]).read_to_end(&mut bytes).unwrap();
        assert!(bytes.windows(10).any(|window| window == b"node_load1"));
    }
    assert_eq!(broker.reads(), 4);
}

#[tokio::test]
async fn a_filter_that_cannot_be_parsed_is_an_error_and_selects_nothing() {
    let (_dir, socket) = directory();
    let broker = FakeBroker::start(&socket, Script::default());
    let exporter = Exporter::start(&socket, &[]);
    for (query, reason) in [
        ("collect[]=%zz", "invalid escape in the query: collect[]=%zz"),
        ("collect[]=%ff", "missing collector: \u{fffd}"),
        ("collect[]=", "missing collector: "),
        ("collect[]=systemd", "disabled collector: systemd (not supported: it needs the host's D-Bus)"),
    ] {
        let answer = exporter.get(&format!("/metrics?{query}")).await;
        assert_eq!(answer.status, 400, "{query}");
        assert!(answer.text().ends_with(&format!("{reason}\n")), "{}", answer.text());
    }
    assert_eq!(broker.reads(), 0);
}

#[tokio::test]
async fn what_follows_a_hash_in_a_path_is_dropped() {
    let (_dir, socket) = directory();
    let _broker = FakeBroker::start(&socket, Script::default());
    let exporter = Exporter::start(&socket, &[]);
    for (target, part) in [("/metrics#x", "\nnode_load1 0.5\n"), ("http://x", "<title>Node Exporter</title>")]
    {
        let mut stream = TcpStream::connect(exporter.address).await.unwrap();
        let head = format!("GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        let read = stream.read_to_string(&mut answer);
        tokio::time::timeout(Duration::from_secs(5), read).await.expect("an end").unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains(part), "{target}: {answer}");
    }
}

#[tokio::test]
async fn protobuf_as_text_is_answered_by_the_text() {
    let (_dir, socket) = directory();
    let _broker = FakeBroker::start(&socket, Script::default());
    let exporter = Exporter::start(&socket, &[]);
    for encoding in ["text", "compact-text"] {
        let accept = format!(
            "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding={encoding}"
        );
        let answer = exporter.request("GET", "/metrics", &[("Accept", &accept)]).await;
        assert!(answer.head.contains("content-type: text/plain; version=0.0.4"), "{}", answer.head);
        assert!(answer.status == 200 && answer.has_line("node_load1 0.5"), "{}", answer.text());
    }
}

#[tokio::test]
async fn texts_that_are_not_an_exposition_are_not_sniffed() {
    let (_dir, socket) = directory();
    let _broker = FakeBroker::start(&socket, Script::default());
    let exporter = Exporter::start(&socket, &[]);
    for path in ["/nothing", "/-/healthy", "/-/ready", "/metrics?collect[]=nope", "//metrics", "/debug/pprof"]
    {
        let head = exporter.get(path).await.head;
        assert!(head.contains("x-content-type-options: nosniff"), "{path}: {head}");
    }
}
