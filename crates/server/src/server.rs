//! A server's life: bind, accept, stop.
//!
//! Shutdown: no more connections are taken; idle ones close; requests in flight finish, for at most
//! the shutdown timeout; the rest is dropped; then the database is closed.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use cairn::{Db, Durability, Env, Visibility};
use cairn_api::{ErrorBody, ErrorKind};
use cairn_durable::Tasks;
use cairn_service::Service;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, lookup_host};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Duration, sleep, timeout};

use crate::blocking::Blocking;
use crate::body::Budget;
use crate::config::ServerConfig;
use crate::connection::{self, Stage};
use crate::dispatch::App;
use crate::error::{Error, Result};
use crate::gather::Gather;
use crate::metrics::Metrics;

/// Pause after the system could not hand over a connection, as when out of file descriptors: trying
/// again at once would spin until one is closed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Threads for workers that say that they are there; each holds one for a sync at most.
const HEARING_JOBS_MAX: usize = 4;

/// Connections being told that they are one too many; beyond these they are closed without a word.
const REFUSALS_MAX: usize = 64;

/// How long one that was refused may take to read that.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);

/// A server that listens and does not yet answer.
pub struct Server {
    app: Arc<App>,
    listener: TcpListener,
    address: SocketAddr,
    stop: watch::Sender<bool>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the token: this ends up in logs.
        f.debug_struct("Server").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Server {
    /// Listens as configured. From here on clients can connect; [`Server::run`] answers them.
    ///
    /// # Errors
    /// [`Error::Listen`] if the address is taken or not this machine's, [`Error::TokenRequired`] if it
    /// is reachable from other machines and there is no token, [`Error::Config`] for a setting that
    /// makes no sense.
    pub async fn bind(config: ServerConfig, db: Db) -> Result<Server> {
        let invalid = |message: &str| Error::Config { message: message.to_owned() };
        config.limits.check().map_err(invalid)?;
        if config.token.as_deref().is_some_and(|token| !is_sendable(token)) {
            return Err(invalid("the token must be visible ASCII without spaces, and not empty"));
        }
        let listen = |source| Error::Listen { address: config.http.clone(), source };
        let addresses: Vec<SocketAddr> = lookup_host(&config.http).await.map_err(listen)?.collect();
        if config.token.is_none() && !addresses.iter().all(|address| address.ip().to_canonical().is_loopback()) {
            return Err(Error::TokenRequired { address: config.http });
        }
        let listener = TcpListener::bind(&addresses[..]).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        let limits = config.limits;
        let tasks = {
            let db = db.clone();
            let opened = tokio::task::spawn_blocking(move || Tasks::open(&Env::real(), db)).await;
            let opened = opened.map_err(|_| Error::Panicked { part: "opening the tasks" })?;
            opened.map_err(|source| Error::Tasks { source })?
        };
        let (stop, stopping) = watch::channel(false);
        let visibility = match config.durability {
            Durability::Commit if cairn::mutant("server-shows-what-may-be-lost") => Visibility::Applied,
            Durability::Commit => Visibility::Durable,
            Durability::Buffered => Visibility::Applied,
        };
        let keyspace = db.default_keyspace();
        let blocking = Blocking::new(limits.blocking_jobs_max);
        let app = App {
            tasks: Service::new(tasks, blocking.clone(), Blocking::new(HEARING_JOBS_MAX), config.test_clock),
            stopping,
            db,
            durability: config.durability,
            visibility,
            reader: keyspace.latest(visibility),
            keyspace,
            token: config.token,
            limits,
            blocking,
            budget: Budget::new(limits.bytes_in_flight_max),
            gather: Gather::default(),
            scans: Arc::new(Semaphore::new(limits.scans_max)),
            maintenance: Arc::new(Semaphore::new(1)),
            syncs_soon: AtomicBool::new(false),
            metrics: Metrics::default(),
        };
        Ok(Server { app: Arc::new(app), listener, address, stop })
    }

    /// Where it listens, with the real port.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown` is done, then stops cleanly and closes the database.
    ///
    /// # Errors
    /// [`Error::Close`] if the database does not close cleanly.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<()> {
        let Server { app, listener, stop, .. } = self;
        let (stage, staged) = watch::channel(Stage::Open);
        let connections = Arc::new(Semaphore::new(app.limits.connections_max));
        let refusals = Arc::new(Semaphore::new(REFUSALS_MAX));
        let accepting = async {
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => match connections.clone().try_acquire_owned() {
                        Ok(permit) => {
                            tokio::spawn(serve(app.clone(), stream, staged.clone(), permit));
                        }
                        Err(_) => {
                            app.metrics.connection_refused();
                            if let Ok(permit) = refusals.clone().try_acquire_owned() {
                                tokio::spawn(refuse(stream, permit));
                            }
                        }
                    },
                    Err(error) if is_of_one_connection(&error) => {}
                    Err(_) => {
                        app.metrics.accept_failed();
                        sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        };
        tokio::select! {
            () = shutdown => {}
            () = accepting => {}
        }
        drop(listener);

        stop.send_replace(true);
        stage.send_replace(Stage::Draining);
        let all = u32::try_from(app.limits.connections_max).unwrap_or(u32::MAX);
        let mut drained = pin!(connections.acquire_many(all));
        if timeout(app.limits.shutdown_timeout, drained.as_mut()).await.is_err() {
            stage.send_replace(Stage::Dropping);
            let _all_gone = drained.await;
        }
        let (db, tasks) = (app.db.clone(), app.tasks.tasks().clone());
        drop(app);
        let close = move || {
            tasks.close();
            db.close()
        };
        match tokio::task::spawn_blocking(close).await {
            Ok(closed) => closed.map_err(|source| Error::Close { source }),
            Err(_) => Err(Error::Panicked { part: "closing the database" }),
        }
    }
}

/// A token that a header can carry, and that trimming cannot change.
fn is_sendable(token: &str) -> bool {
    !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic())
}

/// The connection was gone before it was taken; the next may be well.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

async fn serve(app: Arc<App>, stream: TcpStream, stage: watch::Receiver<Stage>, permit: OwnedSemaphorePermit) {
    /// Counts the connection while it lives, also if serving it panics.
    struct Open(Arc<App>);
    impl Drop for Open {
        fn drop(&mut self) {
            self.0.metrics.connection_closed();
        }
    }
    app.metrics.connection_opened();
    let open = Open(app.clone());
    // Without this, a small answer waits for the acknowledgement of the one before. Where it fails,
    // the connection is already gone, and serving it finds that out.
    let _ = stream.set_nodelay(true);
    connection::serve(app, stream, stage).await;
    drop(open);
    drop(permit);
}

/// Tells a connection that it is one too many.
async fn refuse(mut stream: TcpStream, permit: OwnedSemaphorePermit) {
    let body = ErrorBody::new(ErrorKind::Closed, "as many connections as may be are open; try again later");
    let body = serde_json::to_string(&body).unwrap_or_default();
    let response = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: {}\r\ncontent-length: {}\r\nretry-after: 1\r\n\
         connection: close\r\n\r\n{body}",
        cairn_api::JSON,
        body.len()
    );
    let telling = async {
        stream.write_all(response.as_bytes()).await?;
        stream.shutdown().await?;
        // Closing with unread bytes would reset the connection and could take the answer with it.
        let mut ignored = [0; 4096];
        while stream.read(&mut ignored).await? > 0 {}
        io::Result::Ok(())
    };
    // Whether it heard is its own business.
    let _ = timeout(REFUSAL_TIMEOUT, telling).await;
    drop(permit);
}
