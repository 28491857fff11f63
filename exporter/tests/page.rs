//! The page at `/` over real HTTP, with a fake broker that answers, is absent, hangs or sends hostile text. How it looks and behaves in a
//! browser is checked by tests/peers/page.py.

mod in_process;

use std::time::{Duration, Instant};

use in_process::Exporter;
use keyhole_proto::v1::{
    AccessLevel, DescribeResponse, Layer, Outcome, Query, QueryDescription, ReaderClass,
};
use keyhole_test_support::fake_broker::{FakeBroker, Script};

/// What kubelet gives the probe in node_exporter's chart.
const PROBE: Duration = Duration::from_secs(1);

fn directory() -> (tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("broker.sock");
    (dir, socket)
}

async fn timed(exporter: &Exporter) -> (String, Duration) {
    let start = Instant::now();
    let answer = exporter.get("/").await;
    assert_eq!(answer.status, 200);
    (answer.text(), start.elapsed())
}

#[tokio::test]
async fn the_page_may_load_nothing_and_is_not_cached() {
    let (_dir, socket) = directory();
    let _broker = FakeBroker::start(&socket, Script::default());
    let exporter = Exporter::start(&socket, &["--web.telemetry-path=/m?<\"&"]);
    let answer = exporter.get("/").await;
    for line in [
        "content-type: text/html; charset=utf-8",
        "content-security-policy: default-src 'none'; style-src 'sha256-",
        "frame-ancestors 'none'",
        "x-content-type-options: nosniff",
        "referrer-policy: no-referrer",
        "cache-control: no-store",
    ] {
        assert!(answer.head.contains(line), "{line} is missing in {}", answer.head);
    }
    assert!(!answer.head.contains("unsafe") && !answer.head.contains("script-src"), "{}", answer.head);
    let text = answer.text();
    assert!(text.contains("<title>Node Exporter</title>"), "{text}");
    assert!(text.contains("<a href=\"/m?&lt;&quot;&amp;\">Metrics</a>"), "{text}");
    assert!(text.contains("    metrics_path: &quot;/m?&lt;\\&quot;&amp;&quot;\n"), "{text}");
    assert!(!text.contains("<script") && !text.contains(" style="));
}

#[tokio::test]
async fn a_scrape_shows_in_the_plots_and_among_the_collectors() {
    let (_dir, socket) = directory();
    let _broker = FakeBroker::start(&socket, Script::default());
    let exporter = Exporter::start(&socket, &[]);
    let (text, _) = timed(&exporter).await;
    assert!(text.contains("The broker responds") && text.contains("No scrape yet"), "{text}");
    assert!(text.contains("2 collectors not run yet"), "{text}");
    for _ in 0..2 {
        exporter.get("/metrics").await;
    }
    exporter.get("/metrics?collect[]=loadavg").await;
    let (text, _) = timed(&exporter).await;
    assert!(text.contains("aria-label=\"Series of the last 3 scrapes: last 3, median"), "{text}");
    assert!(text.contains("<th scope=\"row\">loadavg</th><td class=\"number\">3</td>"), "{text}");
    assert!(!text.contains("not run yet"), "{text}");
}

#[tokio::test]
async fn a_collector_that_fails_is_named_with_its_error_and_so_is_a_lost_scrape() {
    let (_dir, socket) = directory();
    let files = vec![(Query::Loadavg, "proc/loadavg", b"<b>".to_vec())];
    let broker = FakeBroker::start(&socket, Script { files, ..Script::default() });
    let exporter = Exporter::start(&socket, &[]);
    exporter.get("/metrics").await;
    let (text, _) = timed(&exporter).await;
    assert!(text.contains("1 collector failed in the last run"), "{text}");
    assert!(text.contains("<small>proc/loadavg: no number for a load average</small>"), "{text}");
    drop(broker);
    exporter.get("/metrics").await;
    let (text, _) = timed(&exporter).await;
    assert!(
        text.contains("1 scrape of the last 2 failed, most recently just now: <code>cannot reach"),
        "{text}"
    );
    assert!(text.contains("; 1 failed\""), "a plot describes it: {text}");
}

#[tokio::test]
async fn the_readers_and_the_layers_of_every_process_are_shown_and_the_flag_that_leaves_a_query_out() {
    let (_dir, socket) = directory();
    let layer = |process: &str, in_force| Layer {
        process: process.into(),
        name: "landlock".into(),
        in_force,
        detail: "ABI 6".into(),
    };
    let reader = |name: &str, available, stuck| ReaderClass {
        name: name.into(),
        available,
        stuck,
        ..Default::default()
    };
    let killed = ReaderClass { seccomp_kills: 1, ..reader("sysfs", true, 0) };
    let tcp = QueryDescription {
        query: Query::Tcp.into(),
        reason: "--queries=default leaves it out: add +tcp".into(),
        ..Default::default()
    };
    let description = DescribeResponse {
        access_level: AccessLevel::Root.into(),
        layers: vec![layer("broker", true), layer("zygote", true), layer("reader-procfs", false)],
        readers: vec![reader("procfs", true, 0), reader("mounts", false, 4), killed],
        queries: vec![tcp],
        ..Default::default()
    };
    let outcomes = vec![(Query::Tcp, Outcome::NotPermitted)];
    let script = Script { description: Some(description), outcomes, ..Script::default() };
    let _broker = FakeBroker::start(&socket, script);
    let exporter = Exporter::start(&socket, &["--collector.tcpstat"]);
    exporter.get("/metrics").await;
    let (text, _) = timed(&exporter).await;
    for part in [
        "<dt>Access level</dt><dd>root</dd>",
        "<th scope=\"row\">procfs</th><td><span class=\"yes\">available</span></td><td class=\"number\">0</td>",
        "<th scope=\"row\">mounts</th><td><span class=\"no\">unavailable</span></td><td class=\"number\">4</td>",
        "<th scope=\"rowgroup\" rowspan=\"1\"><div>broker</div><div>zygote</div></th><td><code>landlock</code></td><td><span class=\"yes\">in force</span> <small>ABI 6</small></td>",
        "<th scope=\"rowgroup\" rowspan=\"1\"><div>reader-procfs</div></th><td><code>landlock</code></td><td><span class=\"no\">missing</span> <small>ABI 6</small></td>",
        "1 sandbox layer not in force",
        "1 reader unavailable: ",
        "Seccomp has killed readers: ",
        "<dt>Excluded by --queries=default<small>",
        "<li>+tcp</li>",
        "<small>query TCP: NOT_PERMITTED (--queries=default leaves it out: add +tcp)</small>",
    ] {
        assert!(text.contains(part), "{part} is missing in {text}");
    }
}

#[tokio::test]
async fn an_absent_broker_is_shown_at_once_with_its_last_description() {
    let (_dir, socket) = directory();
    let exporter = Exporter::start(&socket, &[]);
    let (text, took) = timed(&exporter).await;
    assert!(took < PROBE, "{took:?}");
    assert!(text.contains("The broker is down") && text.contains("cannot reach the broker at "), "{text}");
    assert!(text.contains("It has not responded since this exporter started."), "{text}");
    let broker = FakeBroker::start(&socket, Script::default());
    tokio::time::sleep(PROBE).await;
    let (text, _) = timed(&exporter).await;
    assert!(text.contains("The broker responds") && text.contains("<dd>fake, uid 0</dd>"), "{text}");
    drop(broker);
    tokio::time::sleep(PROBE).await;
    let (text, took) = timed(&exporter).await;
    assert!(took < PROBE, "{took:?}");
    assert!(
        text.contains("The broker is down") && text.contains("The following is its last response, "),
        "{text}"
    );
    assert!(text.contains("<dd>fake, uid 0</dd>"), "{text}");
}

#[tokio::test]
async fn a_broker_that_accepts_and_does_not_answer_delays_no_probe() {
    let (_dir, socket) = directory();
    let _silent = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let exporter = Exporter::start(&socket, &[]);
    let probes = looks(&exporter, 20).await;
    for (text, took) in probes {
        assert!(took < PROBE, "{took:?}");
        assert!(text.contains("The broker does not respond"), "{text}");
    }
}

/// So many requests at once.
async fn looks(exporter: &Exporter, number: usize) -> Vec<(String, Duration)> {
    let mut all = Vec::new();
    for _ in 0..number / 4 {
        let (a, b, c, d) = tokio::join!(timed(exporter), timed(exporter), timed(exporter), timed(exporter));
        all.extend([a, b, c, d]);
    }
    all
}

#[tokio::test]
async fn many_page_views_share_one_describe() {
    let (_dir, socket) = directory();
    let broker = FakeBroker::start(&socket, Script::default());
    let exporter = Exporter::start(&socket, &[]);
    let start = Instant::now();
    looks(&exporter, 40).await;
    let asked = broker.calls.describes.load(std::sync::atomic::Ordering::SeqCst);
    let seconds = usize::try_from(start.elapsed().as_secs()).unwrap();
    assert!((1..=1 + seconds).contains(&asked), "{asked} questions in {seconds} s");
}

#[tokio::test]
async fn a_client_that_disconnects_before_the_answer_raises_no_alarm() {
    let (_dir, socket) = directory();
    let script = Script { describe_delay: Duration::from_millis(100), ..Script::default() };
    let broker = FakeBroker::start(&socket, script);
    let exporter = Exporter::start(&socket, &[]);
    let gone = tokio::time::timeout(Duration::from_millis(40), exporter.get("/")).await;
    assert!(gone.is_err(), "the answer takes longer");
    let (text, _) = timed(&exporter).await;
    assert!(text.contains("The broker responds"), "{text}");
    assert_eq!(broker.calls.describes.load(std::sync::atomic::Ordering::SeqCst), 1);
}

#[tokio::test]
async fn the_brokers_description_is_escaped_and_truncated() {
    let (_dir, socket) = directory();
    let evil = "\"><img src=x onerror=alert(1)><script>alert(1)</script>\u{202e}'\n";
    let layer = Layer { name: evil.into(), in_force: true, detail: evil.repeat(40), process: evil.into() };
    let reader = ReaderClass { name: evil.repeat(40), stuck: u64::MAX, ..Default::default() };
    let query = |number| QueryDescription {
        query: number,
        patterns: vec![evil.into()],
        access_level: AccessLevel::Minimal.into(),
        available: false,
        reason: format!("{number}{evil}").repeat(8),
        stuck: true,
        reader: evil.into(),
        outcome: number,
    };
    let description = DescribeResponse {
        version: evil.repeat(10),
        access_level: 77,
        proc_view: 77,
        start_time_ms: u64::MAX,
        layers: vec![layer; 200],
        readers: vec![reader; 200],
        queries: (-500..500).map(query).collect(),
        ..Default::default()
    };
    let _broker = FakeBroker::start(&socket, Script { description: Some(description), ..Script::default() });
    let exporter = Exporter::start(&socket, &[]);
    let (text, took) = timed(&exporter).await;
    assert!(text.contains("The broker responds"), "{text}");
    assert!(took < PROBE, "{took:?}");
    assert!(text.contains("&lt;img src=x onerror=alert(1)&gt;&lt;script&gt;"), "{text}");
    assert!(!text.contains("<img") && !text.contains("<script") && !text.contains('\u{202e}'));
    assert!(text.len() < 400 << 10, "{} bytes", text.len());
}

#[tokio::test]
async fn items_that_a_collector_left_out_are_named_with_the_reason() {
    let (dir, socket) = directory();
    std::fs::write(dir.path().join("a.prom"), "a{__x=\"<b>\"} 1\nb 2\n").unwrap();
    let _broker = FakeBroker::start(&socket, Script::default());
    let flag = format!("--collector.textfile.directory={}", dir.path().display());
    let exporter = Exporter::start(&socket, &["--collector.textfile", &flag]);
    let metrics = exporter.get("/metrics").await.text();
    assert!(metrics.contains("\nkeyhole_collector_skipped{collector=\"textfile\"} 1\n"), "{metrics}");
    let (text, _) = timed(&exporter).await;
    let item = format!(
        "<summary>1 item skipped</summary><small>{}/a.prom: line 1: the label name __x is reserved",
        dir.path().display()
    );
    assert!(text.contains(&item), "{text}");
    std::fs::write(dir.path().join("a.prom"), "b 2\n").unwrap();
    exporter.get("/metrics").await;
    let (text, _) = timed(&exporter).await;
    assert!(!text.contains("skipped</summary>"), "{text}");
}
