//! The server: opens everything it needs, enters the sandbox, then accepts connections.

use std::net::TcpListener;
use std::sync::Arc;

use keyhole_os::signals;

use super::flags::{
    GROUPS, HEALTH_ADDRESS, LISTEN_ADDRESS, PATH_SYSFS, SYSTEMD_SOCKET, TELEMETRY_PATH,
    UNSUPPORTED_COLLECTORS, WEB_CONFIG_FILE, WithoutEffect, without_effect,
};
use super::{Failure, StopSignals, broker, local, runtime};
use crate::broker_client::BrokerClient;
use crate::collector;
use crate::http::listen::ListenError;
use crate::http::routes::{HEALTHY, READY};
use crate::http::web_config::WebConfig;
use crate::http::{self, App, listen, paths};
use crate::options::Options;
use crate::sandbox::{self, SandboxOptions};
use crate::scrape::Scraper;
use crate::self_metrics::{VERSION, process::Process};

/// Serves until SIGTERM, SIGINT or SIGHUP.
pub(super) fn run(options: Options) -> Result<(), Failure> {
    check_telemetry_path(&options)?;
    runtime()?.block_on(serve(options))
}

async fn serve(options: Options) -> Result<(), Failure> {
    keyhole_os::memory::mmap_large_allocations();
    signals::ignore_stray();
    let mut signals = StopSignals::listen()?;
    let collectors = collector::enabled(&options)?;
    let broker = broker(&options, BrokerClient::new)?;
    let mut web_config = web_config(&options)?;
    let listeners = if SYSTEMD_SOCKET.get(&options) {
        listen::inherited().map_err(|error| error.to_string())?
    } else {
        let mut addresses = LISTEN_ADDRESS.get(&options);
        if addresses.is_empty() {
            addresses.push(listen::DEFAULT_ADDRESS.to_owned());
        }
        bind(&options, LISTEN_ADDRESS.row.name, &addresses)?
    };
    let health_address = Some(HEALTH_ADDRESS.get(&options)).filter(|address| !address.is_empty());
    let health_listener = match health_address {
        Some(address) => bind(&options, HEALTH_ADDRESS.row.name, &[address])?.pop(),
        None => None,
    };
    // Both ask what the sandbox does not allow later.
    let (local, process) = (local()?, Process::open());
    log_flags_without_effect(&options);
    let mut readable = Vec::new();
    for collector in &collectors {
        let (directories, missing): (Vec<_>, Vec<_>) =
            collector.directories().iter().cloned().partition(|path| path.is_dir());
        readable.extend(directories);
        for path in missing {
            let (collector, path) = (collector.row.name, path.display());
            tracing::warn!(collector, %path, "directory does not exist; restart the exporter once it does");
        }
    }

    if let Some(web_config) = &web_config {
        readable.extend(web_config.readable_directories()?);
    }

    let sandbox_options =
        SandboxOptions { readable, broker_socket: broker.socket().into(), extra_syscalls: &[] };
    let layers = sandbox::enter_with_threads(&sandbox_options, || {
        web_config.as_mut().map_or(Ok(()), WebConfig::start_password_thread)
    })?;

    for layer in &layers {
        if layer.in_force {
            tracing::info!(layer = layer.name, detail = layer.detail, "sandbox layer in force");
        } else {
            tracing::warn!(layer = layer.name, detail = layer.detail, "sandbox layer MISSING");
        }
    }
    let names: Vec<_> = collectors.iter().map(|collector| collector.row.name).collect();
    tracing::info!(collectors = names.join(","), "enabled collectors");
    for address in listeners.iter().filter_map(|listener| listener.local_addr().ok()) {
        let tls = web_config.as_ref().is_some_and(WebConfig::has_tls);
        tracing::info!(%address, tls, broker = broker.socket(), version = VERSION, "listening");
    }
    if let Some(Ok(address)) = health_listener.as_ref().map(TcpListener::local_addr) {
        tracing::info!(%address, "listening for health checks, without TLS and users");
    }
    let scraper = Scraper::new(broker, collectors, &options, local, process, layers);
    let scraper = scraper.map_err(|error| format!("cannot register metrics: {error}"))?;
    let app = Arc::new(App::new(Arc::new(scraper), &options).with_web_config(web_config));
    // Each has read what it needs.
    drop(options);
    let stop = async {
        signals.next().await;
        tracing::info!("stopping");
    };
    #[cfg(feature = "hostile-code-for-tests")]
    crate::hostile::on_main();
    keyhole_os::memory::release_unused();
    http::serve(listeners, health_listener, app, stop)
        .await
        .map_err(|error| format!("cannot serve: {error}").into())
}

/// Listens on the addresses of a flag.
fn bind(options: &Options, flag: &'static str, addresses: &[String]) -> Result<Vec<TcpListener>, Failure> {
    let refuse = |address: &str, reason| Failure::Usage(options.refuse(flag, address, reason).to_string());
    listen::bind(flag, addresses).map_err(|error| match error {
        ListenError::Address(address) => refuse(&address, listen::NOT_AN_ADDRESS),
        ListenError::Vsock(address) => refuse(&address, listen::NO_VSOCK),
        error => Failure::Failed(error.to_string()),
    })
}

/// The configuration of `--web.config.file`; none for an empty path, as in node_exporter.
fn web_config(options: &Options) -> Result<Option<WebConfig>, Failure> {
    match &*WEB_CONFIG_FILE.get(options) {
        "" => Ok(None),
        path => Ok(Some(WebConfig::new(path)?)),
    }
}

/// Checks that requests can reach the telemetry path.
fn check_telemetry_path(options: &Options) -> Result<(), Failure> {
    let path = TELEMETRY_PATH.get(options);
    let usage = |reason: &str| {
        Err(Failure::Usage(options.refuse(TELEMETRY_PATH.row.name, &path, reason).to_string()))
    };
    if !path.starts_with('/') {
        return usage("use a path that begins with /, such as /metrics");
    }
    if let Some(probe) = [HEALTHY, READY].into_iter().find(|probe| paths::is_equivalent(probe, &path)) {
        return Err(Failure::Usage(format!(
            "--web.telemetry-path: {probe} is the page for probes; use another path, such as /metrics"
        )));
    }
    if !paths::is_reachable(&path) {
        return usage(
            "requests cannot reach a path with //, /./, /../ or an invalid escape; use one such as /metrics",
        );
    }
    Ok(())
}

fn log_flags_without_effect(options: &Options) {
    let flags_given = |prefix: &str| {
        let flags = GROUPS.iter().flat_map(|group| group.flags);
        let names = flags.map(|flag| flag.name).filter(|name| name.starts_with(prefix));
        // It is the prefix of labels' values.
        let names = names.filter(|name| *name != PATH_SYSFS.row.name);
        names
            .filter(|name| options.is_set(name))
            .map(|name| format!("--{name}"))
            .collect::<Vec<_>>()
            .join(" ")
    };
    let paths = flags_given("path.");
    if !paths.is_empty() {
        tracing::info!(flags = paths, "no effect here: set these flags for the broker");
    }
    for WithoutEffect { flags, why } in without_effect(options) {
        tracing::warn!(flags, why, "no effect: this collector is not supported");
    }
    let names = UNSUPPORTED_COLLECTORS.iter().map(|(name, _)| *name);
    let disabled: Vec<_> = names.filter(|name| options.is_set(name) && !options.switch(name)).collect();
    if !disabled.is_empty() {
        tracing::info!(
            collectors = disabled.join(","),
            "no effect: these collectors are not supported, so they are always disabled"
        );
    }
}
