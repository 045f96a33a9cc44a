//! The only place where the parts meet: builds them from a configuration and runs them.

mod alone;
mod background;
mod certificate;
mod changes;
mod control_path;
mod handover;
mod listen;
mod markets;
mod reload;
#[cfg(test)]
mod renting;
mod signals;
mod unheard;
mod upgrade;
mod vast;
#[cfg(test)]
mod vast_requests;
mod watch;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use arc_swap::{ArcSwap, ArcSwapOption};
use parking_lot::Mutex;
use pingora::server::configuration::{Opt, ServerConf};
use pingora::server::{RunArgs, Server};
use pingora::services::listening::Service;

pub use self::alone::{Account, Alone, Left, NotAlone};
use self::certificate::CertificateFiles;
use self::handover::{Paths, Taking};
use self::markets::BuiltMarkets;
use crate::admin::{Admin, AdminToken};
use crate::config::{AccessLogTo, Config, Files, ServerConfig};
use crate::domain::{Access, Endpoint, EndpointName, FixedWorker, InstallationId, MarketKind};
use crate::fleet::{Fleet, Learned};
use crate::ledger::{Ledger, LedgerError};
use crate::probe::Prober;
use crate::proxy::{ConnectionServer, Front, Gateway, KeyRing, ProxySettings, TlsAcceptor};
use crate::scaler::Scaler;
use crate::telemetry::{AccessLog, DecisionLog, Metrics, now};

/// Time for workers to be ended after the last request, on top of the grace period.
const ENDING_TIME: Duration = Duration::from_secs(12);

const LOCK_GOES_WITHIN: Duration = Duration::from_secs(5);

/// Where a configuration came from.
pub struct Origin {
    pub dir: PathBuf,
    /// What lay there when it was last read.
    pub files: Files,
}

/// Runs until a signal ends it. Changes are read where the configuration came from; the embedded default has no
/// such place.
/// `upgrade`: take over from the gateway that runs on the same state directory, if there is one.
pub fn run(config: Config, origin: Option<Origin>, upgrade: bool) -> Result<()> {
    upgrade::remember_program();
    let Config {
        server: settings,
        endpoints,
        access,
        warnings,
    } = config;
    for warning in &warnings {
        tracing::warn!("{warning}");
    }
    vast::refuse_without_key(&settings, &endpoints)?;
    let paths = match Paths::in_dir(&settings.state_dir) {
        Err(error) if upgrade => return Err(error),
        Err(error) => {
            tracing::warn!("{error:#}");
            None
        }
        Ok(paths) => Some(paths),
    };
    let mut taking = match &paths {
        Some(paths) if upgrade => Taking::ask(paths)?,
        _ => None,
    };
    let admin_address = (settings.admin_listen, "admin_listen");
    for (address, key) in listen::client_addresses(&settings).chain([admin_address]) {
        let inherited = taking.as_ref().map(|taking| &taking.listening);
        if !inherited.is_some_and(|listening| listening.contains(&address.to_string())) {
            listen::check_free(address, key)?;
        }
    }
    listen::raise_descriptor_limit(&settings.connections);
    listen::end_without_listeners();
    provide_tls();
    let metrics = Arc::new(Metrics::new().context("metrics")?);
    let mut server = server(&settings, paths.as_ref(), taking.is_some());
    let learned = match &mut taking {
        Some(taking) => {
            taking.want_sockets()?;
            server.bootstrap();
            taking.want_control_or_go_on_alone()?
        }
        None => {
            server.bootstrap();
            Learned::default()
        }
    };
    let ledger = Arc::new(open_ledger(&settings, taking.is_some())?);
    let decisions_path = settings.state_dir.join("decisions.jsonl");
    let decisions =
        DecisionLog::open(&decisions_path).with_context(|| decisions_path.display().to_string())?;
    let decisions = Arc::new(decisions);
    let fleet = Fleet::new(&endpoints);
    fleet.set_predecessor(taking.is_some());
    let markets = BuiltMarkets::new(&settings, &endpoints, &ledger.installation(), &metrics)?;
    let proxy_settings = proxy_settings(
        &settings,
        &access,
        &KeyRing::default(),
        ledger.installation(),
    )?;
    let proxy_settings = Arc::new(ArcSwap::from_pointee(proxy_settings));

    let spending = Arc::new(ArcSwap::from_pointee(settings.spending.clone()));
    let scaler = Arc::new(Scaler::new(
        Arc::clone(&fleet),
        markets.all(),
        Arc::clone(&ledger),
        Arc::clone(&metrics),
        Arc::clone(&decisions),
        Arc::clone(&spending),
        settings.scaler_interval,
    ));
    let prober = Prober::new(Arc::clone(&fleet), Arc::clone(&metrics));
    let token = settings.admin_token.as_ref();
    let admin_token = Arc::new(ArcSwapOption::from_pointee(
        token.map(|token| AdminToken::new(token.expose())),
    ));
    let reloader = reload::Reloader {
        origin: origin.map(Mutex::new),
        started_with: settings.clone(),
        certificate: Mutex::new(CertificateFiles::of(&settings)),
        fleet: Arc::clone(&fleet),
        fixed: markets.fixed,
        vast: markets.vast,
        proxy_settings: Arc::clone(&proxy_settings),
        metrics: Arc::clone(&metrics),
        admin_token: Arc::clone(&admin_token),
        spending,
        one_at_a_time: Mutex::default(),
    };
    let reloader = Arc::new(reloader);
    let access_log = Arc::new(access_log(&settings, &metrics)?);
    let control = background::Control {
        access_log: Arc::clone(&access_log),
        scaler: Arc::clone(&scaler),
        prober,
        reloader: Arc::clone(&reloader),
        reload_on_change: settings.reload_on_change,
        fleet: Arc::clone(&fleet),
        local: markets.local,
        keeps_local: settings.local_market.keep_on_exit,
        grace_period: settings.grace_period,
        orphan_after: settings.public_url.as_ref().map(|_| settings.orphan_after),
        paths,
        predecessor: Mutex::new(taking.map(Taking::attendable)),
        learned,
        end: Arc::default(),
    };
    let admin = Admin {
        fleet: Arc::clone(&fleet),
        metrics: Arc::clone(&metrics),
        decisions,
        ledger,
        token: admin_token,
        reload: Box::new(move || reloader.reload()),
        control: Box::new(control_path::AskScaler(scaler)),
    };
    let gateway = Gateway::new(
        fleet,
        Arc::clone(&metrics),
        Arc::clone(&proxy_settings),
        access_log,
    );
    let conf = &server.configuration;
    let clients = listen::clients(conf, &settings, gateway, proxy_settings, metrics);
    serve(server, &settings, clients, admin, control);
    Ok(())
}

fn access_log(settings: &ServerConfig, metrics: &Metrics) -> Result<AccessLog> {
    let (queue, lines) = (settings.access_log_queue, &metrics.access_log_lines);
    match &settings.access_log {
        AccessLogTo::Off => Ok(AccessLog::default()),
        AccessLogTo::Stdout => AccessLog::to_stdout(queue, lines).context("access_log"),
        AccessLogTo::File(path) => AccessLog::to_file(path, queue, lines)
            .with_context(|| format!("access_log: cannot write {}", path.display())),
    }
}

/// Pingora's server; when it takes over it waits for the sockets in `bootstrap`.
fn server(settings: &ServerConfig, paths: Option<&Paths>, takes_over: bool) -> Server {
    let mut conf = ServerConf {
        threads: data_path_threads(settings),
        // Pingora sleeps this long in full; the control service ends the process earlier, when nothing is left to do.
        grace_period_seconds: Some((settings.grace_period + 2 * ENDING_TIME).as_secs()),
        graceful_shutdown_timeout_seconds: Some(1),
        ..ServerConf::default()
    };
    if let Some(paths) = paths {
        conf.upgrade_sock = paths.sockets();
    }
    let options = Opt {
        upgrade: takes_over,
        ..Opt::default()
    };
    Server::new_with_opt_and_conf(options, conf)
}

fn serve(
    mut server: Server,
    settings: &ServerConfig,
    clients: Service<ConnectionServer<Front>>,
    admin: Admin,
    control: background::Control,
) {
    let signals = signals::Signals {
        fleet: Arc::clone(&control.fleet),
        stop_delay: settings.stop_delay,
        end: Arc::clone(&control.end),
    };
    let takes_over = control.predecessor.lock().is_some();
    let mut admin = Service::new("admin".to_owned(), admin);
    admin.threads = Some(1);
    admin.add_tcp(&settings.admin_listen.to_string());
    let proxy = server.add_service(clients);
    let admin = server.add_service(admin);
    let control = server.add_service(control);
    if takes_over {
        // Until the control service says so, the old process serves.
        proxy.add_dependency(&control);
        admin.add_dependency(&control);
    }
    tracing::info!(listen = %settings.listen, admin = %settings.admin_listen, "tidegate is up");
    server.run(RunArgs {
        shutdown_signal: Box::new(signals),
    });
}

/// reqwest takes its cryptography from here; ring is what Pingora uses too.
pub(crate) fn provide_tls() {
    if rustls::crypto::ring::default_provider()
        .install_default()
        .is_err()
    {
        tracing::debug!("a TLS provider was installed before");
    }
}

/// The lock of a process that died in the middle of a handover may take a moment to go.
fn open_ledger(settings: &ServerConfig, takes_over: bool) -> Result<Ledger> {
    let deadline = std::time::Instant::now() + LOCK_GOES_WITHIN;
    loop {
        match Ledger::open(&settings.state_dir, now()) {
            Err(LedgerError::Locked(_)) if takes_over && std::time::Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(50));
            }
            opened => return Ok(opened?),
        }
    }
}

fn data_path_threads(settings: &ServerConfig) -> usize {
    match settings.threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        threads => threads,
    }
}

/// What was used of keys' limits goes on from `before`.
fn proxy_settings(
    settings: &ServerConfig,
    access: &Access,
    before: &KeyRing,
    installation: InstallationId,
) -> Result<ProxySettings> {
    let certified = settings.tls.as_ref().map(|tls| Arc::clone(&tls.certified));
    let tls = certified.map(TlsAcceptor::new).transpose().context("tls")?;
    Ok(ProxySettings {
        keys: KeyRing::new(access, before),
        max_body_bytes: settings.max_body_bytes,
        body_timeout: settings.body_timeout,
        connections: settings.connections.clone(),
        installation,
        tls,
    })
}

fn fixed_workers(endpoints: &[Endpoint]) -> Vec<(EndpointName, Vec<FixedWorker>)> {
    endpoints
        .iter()
        .filter(|endpoint| endpoint.market == MarketKind::Fixed)
        .map(|endpoint| {
            let workers = endpoint
                .groups
                .iter()
                .flat_map(|group| group.given().iter().cloned())
                .collect();
            (endpoint.name.clone(), workers)
        })
        .collect()
}
