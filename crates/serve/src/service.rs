//! A server from start to end: it listens before its models are there, serves, and drains when it is told to stop.
use crate::line::{Gone, Line};
use crate::listen::{Address, Door, Listener, Tls};
use crate::model::{Model, Served};
use crate::options::Options;
use crate::patience::Patient;
use crate::state::State;
use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

/// Why a server could not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The socket cannot be opened.
    #[error("cannot listen on {0}: {1}")]
    Listen(String, std::io::Error),
    /// A certificate or key cannot be used.
    #[error("{0}: {1}")]
    Tls(String, String),
    /// Everyone could reach the server, and nobody would need a key.
    #[error("{0} can be reached from other machines: set API keys (--api-key), or allow it (--insecure-no-auth)")]
    Open(String),
    /// The runtime cannot start.
    #[error("cannot start the server's threads: {0}")]
    Threads(std::io::Error),
    /// An engine has failed for good.
    #[error("the engine of {0} has failed: {1}")]
    Engine(String, String),
}

/// How far a stop has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
enum Stop {
    No,
    /// Requests in flight may end.
    Drain,
    /// They end now, with an error.
    Now,
}

/// Bytes that hyper keeps of a connection at most; a head beyond it is refused by hyper itself.
const BUFFER: usize = 256 << 10;
/// Headers that hyper reads at most, and refuses more without a word: our own limits are lower.
const HEADERS: usize = 4096;
/// Between two looks at the engines' health.
const LOOK: Duration = Duration::from_millis(500);
/// Time for the last words of requests that were ended.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// A running server. Dropping it ends what is in flight.
pub struct Service {
    state: Arc<State>,
    address: String,
    url: String,
    stop: Arc<watch::Sender<Stop>>,
    task: Option<JoinHandle<Result<(), ServeError>>>,
    runtime: Option<Runtime>,
}

impl Service {
    /// Opens the socket and answers from now on; models follow by [`Service::install`]. Without API keys it must be
    /// reachable from this machine only, unless `open` allows it.
    ///
    /// # Errors
    /// [`ServeError`] naming the address or file.
    pub fn start(
        mut options: Options,
        address: &Address,
        tls: Option<&Tls>,
        open: bool,
    ) -> Result<Service, ServeError> {
        let acceptor = tls.map(Tls::acceptor).transpose()?;
        let listener = Listener::open(address)?;
        let (name, url) = (listener.name(), listener.url(tls.is_some()));
        if options.keys.is_empty() && !listener.is_local() && !open {
            return Err(ServeError::Open(name));
        }
        // Where keys guard, or other machines are meant to come, any name will do.
        if !options.keys.is_empty() || !listener.is_local() {
            options.hosts = None;
        }
        let state = Arc::new(State::new(options));
        let runtime = runtime(&state).map_err(ServeError::Threads)?;
        let door = {
            let _inside = runtime.enter();
            listener.into_door().map_err(|error| ServeError::Listen(name.clone(), error))?
        };
        let stop = Arc::new(watch::channel(Stop::No).0);
        let task = runtime.spawn(run(state.clone(), door, acceptor, stop.clone()));
        Ok(Service { state, address: name, url, stop, task: Some(task), runtime: Some(runtime) })
    }

    /// Takes models into service; the first is meant where no name is given.
    pub fn install(&self, models: Vec<Served>) {
        let models: Vec<Arc<Model>> = models.into_iter().map(|served| Arc::new(Model::new(served))).collect();
        for model in models.clone() {
            // The first grammar would wait for this. Models without an end-of-text token say so when one comes.
            let prepare = move || drop(model.vocabulary.prepare());
            self.runtime.iter().for_each(|runtime| drop(runtime.spawn_blocking(prepare.clone())));
        }
        self.state.install(models);
    }

    /// Where it listens: host and port, or a path.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The same with the way to speak there: `https://127.0.0.1:23333`, `unix:/run/planish.sock`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Begins to drain when the process is asked to end (SIGTERM or SIGINT); a second time ends at once.
    pub fn stop_on_signals(&self) {
        let stop = self.stop.clone();
        if let Some(runtime) = &self.runtime {
            runtime.spawn(async move {
                use tokio::signal::unix::{SignalKind, signal};
                let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
                else {
                    return;
                };
                loop {
                    tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
                    stop.send_modify(|stop| *stop = if *stop == Stop::No { Stop::Drain } else { Stop::Now });
                }
            });
        }
    }

    /// Takes no more requests; those in flight have the drain time to end. With `now` they end with an error.
    pub fn stop(&self, now: bool) {
        self.stop.send_modify(|stop| *stop = if now { Stop::Now } else { Stop::Drain });
    }

    /// Whether the server has ended: [`Service::wait`] would not wait.
    pub fn has_ended(&self) -> bool {
        self.task.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Waits until the server has ended.
    ///
    /// # Errors
    /// [`ServeError::Engine`] if it ended because an engine failed.
    pub fn wait(mut self) -> Result<(), ServeError> {
        match (self.task.take(), &self.runtime) {
            (Some(task), Some(runtime)) => runtime.block_on(task).unwrap_or(Ok(())),
            _ => Ok(()),
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.stop(true);
        for model in self.state.models() {
            model.served.handle.shutdown(false);
        }
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(1));
        }
        if let Some(lines) = &self.state.log {
            lines.close(LAST_WORDS);
        }
    }
}

/// Few threads: they only move bytes, and on a CPU the engine wants every core.
fn runtime(state: &Arc<State>) -> std::io::Result<Runtime> {
    let state = Arc::downgrade(state);
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads((cores / 4).clamp(1, 16))
        .max_blocking_threads(16)
        .thread_name("planish-http")
        .on_thread_park(move || {
            if let Some(state) = state.upgrade() {
                state.thank();
            }
        })
        .enable_all()
        .build()
}

async fn run(
    state: Arc<State>,
    door: Door,
    tls: Option<TlsAcceptor>,
    stop: Arc<watch::Sender<Stop>>,
) -> Result<(), ServeError> {
    let most = state.options.max_connections;
    let connections = Arc::new(Semaphore::new(most));
    let router = crate::app::router(state.clone());
    let mut told = stop.subscribe();
    let outcome = tokio::select! {
        _ = accept(&state, door, tls, router, &connections, &stop) => Ok(()),
        _ = told.wait_for(|stop| *stop >= Stop::Drain) => Ok(()),
        broken = watch_engines(&state) => Err(broken),
    };
    state.drain();
    // Connections that rest end at once, the others after their answer.
    stop.send_modify(|stop| *stop = if *stop == Stop::No { Stop::Drain } else { *stop });
    let all_left = || connections.acquire_many(most as u32);
    tokio::select! {
        _ = all_left() => {},
        _ = tokio::time::sleep(state.options.drain_time), if outcome.is_ok() => {},
        _ = told.wait_for(|stop| *stop == Stop::Now) => {},
        _ = std::future::ready(()), if outcome.is_err() => {},
    }
    // What still runs is told so, and tells its caller.
    state.end();
    for model in state.models() {
        model.served.handle.shutdown(false);
    }
    let _ = tokio::time::timeout(LAST_WORDS, all_left()).await;
    outcome
}

/// Comes back when an engine has failed for good.
async fn watch_engines(state: &State) -> ServeError {
    loop {
        tokio::time::sleep(LOOK).await;
        for model in state.models() {
            if let Err(error) = model.served.handle.health() {
                return ServeError::Engine(model.name().into(), error.to_string());
            }
        }
    }
}

async fn accept(
    state: &Arc<State>,
    door: Door,
    tls: Option<TlsAcceptor>,
    router: Router,
    connections: &Arc<Semaphore>,
    stop: &Arc<watch::Sender<Stop>>,
) {
    loop {
        // Whoever finds no room waits in the system's own queue.
        let Ok(room) = connections.clone().acquire_owned().await else { return };
        let (line, gone) = match door.accept().await {
            Ok(accepted) => accepted,
            Err(_) => {
                // Out of file descriptors, most likely: others will give some back.
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let (options, tls, router, told) = (state.options.clone(), tls.clone(), router.clone(), stop.subscribe());
        tokio::spawn(async move {
            let _room = room;
            let line = Patient::new(line, options.stall_time);
            match tls {
                None => serve(Box::pin(line), gone, &options, router, told).await,
                Some(tls) => {
                    let greeted = tokio::time::timeout(options.read_time, tls.accept(line)).await;
                    if let Ok(Ok(line)) = greeted {
                        serve(Box::pin(line), gone, &options, router, told).await;
                    }
                }
            }
        });
    }
}

/// Serves one connection until it ends or its caller has left.
async fn serve(
    line: Pin<Box<dyn Line>>,
    mut gone: Gone,
    options: &Options,
    router: Router,
    mut told: watch::Receiver<Stop>,
) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(options.read_time)
        .max_buf_size(BUFFER)
        .max_headers(HEADERS)
        .serve_connection(TokioIo::new(line), TowerToHyperService::new(router));
    let mut connection = std::pin::pin!(connection);
    // A caller that breaks off or speaks no HTTP is no news.
    let stopped = async move { drop(told.wait_for(|stop| *stop >= Stop::Drain).await) };
    // What can be answered at once is, also to a caller that sends no more: the connection comes first.
    tokio::select! {
        biased;
        _ = connection.as_mut() => return,
        () = gone.as_mut() => return,
        () = stopped => {}
    }
    connection.as_mut().graceful_shutdown();
    tokio::select! {
        biased;
        _ = connection => {}
        () = gone => {}
    }
}
