//! The exporter as a server: everything that must be opened, then the seal, then the first connection.

use std::sync::Arc;

use keyhole_os::signals;

use super::flags::{GROUPS, NOT_OFFERED, WithoutEffect, without_effect};
use super::{Failure, StopSignals, runtime, socket};
use crate::broker_client::BrokerClient;
use crate::budget::Budget;
use crate::collector::tasks::processgroups::ProcessGroups;
use crate::http::listen::ListenError;
use crate::http::web_config::WebConfig;
use crate::http::{self, App, listen, paths};
use crate::options::Options;
use crate::own::OwnSource;
use crate::sandbox::{self, SealOptions};
use crate::scrape::{self, Scraper};
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
    let broker = BrokerClient::new(&socket(&options)).map_err(|error| Failure::Usage(error.to_string()))?;
    let broker = broker.with_max_response_bytes(Budget::new(&options).answer);
    let mut web_config = web_config(&options)?;
    let listeners = match options.switch("web.systemd-socket") {
        true => listen::inherited(),
        false => listen::bind(options.texts("web.listen-address")),
    };
    let listeners = listeners.map_err(|error| match error {
        ListenError::Address(_) | ListenError::Vsock(_) => Failure::Usage(error.to_string()),
        error => Failure::Failed(error.to_string()),
    })?;
    let process = Process::open();
    let own = OwnSource::new(&options).with_process_groups(ProcessGroups::new(&options)?);
    let (mut readable, missing) = own.text_directories();
    log_flags_without_effect(&options);
    for path in missing {
        tracing::warn!(path = %path.display(), "textfile directory does not exist; once it does, start the exporter again");
    }

    if let Some(web_config) = &web_config {
        readable.extend(web_config.readable_directories()?);
    }

    let seal = SealOptions { readable, broker_socket: broker.socket().into(), also: &[] };
    let layers = sandbox::seal_with_threads(&seal, || {
        web_config.as_mut().map_or(Ok(()), WebConfig::start_password_thread)
    })?;

    for layer in &layers {
        match layer.in_force {
            true => tracing::info!(layer = layer.name, detail = layer.detail, "sandbox layer in force"),
            false => tracing::warn!(layer = layer.name, detail = layer.detail, "sandbox layer MISSING"),
        }
    }
    let collectors: Vec<_> = scrape::enabled(&options).iter().map(|collector| collector.name).collect();
    tracing::info!(collectors = collectors.join(","), "collectors");
    for address in listeners.iter().filter_map(|listener| listener.local_addr().ok()) {
        let tls = web_config.as_ref().is_some_and(WebConfig::has_tls);
        tracing::info!(%address, tls, broker = broker.socket(), version = VERSION, "listening");
    }
    let scraper = Scraper::new(broker, options.clone(), own, process, layers);
    let scraper = scraper.map_err(|error| format!("cannot count: {error}"))?;
    let app = Arc::new(App::new(Arc::new(scraper), &options).with_web_config(web_config));
    // The scraper has its own.
    drop(options);
    let stop = async {
        signals.next().await;
        tracing::info!("stopping");
    };
    #[cfg(feature = "hostile-code-for-tests")]
    crate::hostile::on_main();
    keyhole_os::memory::release_unused();
    http::serve(listeners, app, stop).await.map_err(|error| format!("cannot serve: {error}").into())
}

/// What `--web.config.file` asks for; an empty name asks for nothing, as in node_exporter.
fn web_config(options: &Options) -> Result<Option<WebConfig>, Failure> {
    match options.text("web.config.file") {
        "" => Ok(None),
        path => Ok(Some(WebConfig::new(path)?)),
    }
}

/// A setting that protects something is never ignored.
fn check_telemetry_path(options: &Options) -> Result<(), Failure> {
    let usage = |error: &str| Err(Failure::Usage(error.to_owned()));
    let path = options.text("web.telemetry-path");
    if !path.starts_with('/') {
        return usage("--web.telemetry-path: a path begins with /, such as /metrics");
    }
    if !paths::is_reachable(path) {
        return usage(
            "--web.telemetry-path: no request reaches a path with //, /./, /../ or a broken escape; use one such as /metrics",
        );
    }
    Ok(())
}

fn log_flags_without_effect(options: &Options) {
    let given = |prefix: &str| {
        let flags = GROUPS.iter().flat_map(|group| group.flags);
        let names = flags.map(|flag| flag.name).filter(|name| name.starts_with(prefix));
        names
            .filter(|name| options.was_given(name))
            .map(|name| format!("--{name}"))
            .collect::<Vec<_>>()
            .join(" ")
    };
    let paths = given("path.");
    if !paths.is_empty() {
        tracing::info!(
            flags = paths,
            "without effect here: the broker reads the host, and takes these flags"
        );
    }
    for WithoutEffect { flags, why } in without_effect(options) {
        tracing::warn!(flags, why, "without effect: this collector is not supported");
    }
    let names = NOT_OFFERED.iter().map(|(name, _)| *name);
    let refused: Vec<_> = names.filter(|name| options.was_given(name) && !options.switch(name)).collect();
    if !refused.is_empty() {
        tracing::info!(
            collectors = refused.join(","),
            "these collectors are not supported, so switching them off has no effect"
        );
    }
}
