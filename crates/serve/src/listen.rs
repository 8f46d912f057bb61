//! Where callers come in: a TCP port, a Unix socket, or a socket that the system's service manager has opened; with TLS
//! if there is a certificate.
use crate::line::{Gone, Line, watch};
use crate::service::ServeError;
use std::net::TcpListener as StdTcp;
use std::os::unix::net::UnixListener as StdUnix;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use tokio::net::{TcpListener, UnixListener};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Where to listen.
#[derive(Clone, Debug)]
pub enum Address {
    /// Host and port; port 0 takes a free one.
    Tcp(String, u16),
    /// A Unix socket; one that is left over from before is replaced.
    Unix(PathBuf),
    /// The first socket that the service manager hands over.
    Activated,
}

/// Certificate and key, as PEM files.
#[derive(Clone, Debug)]
pub struct Tls {
    /// Certificate chain.
    pub cert: PathBuf,
    /// Private key.
    pub key: PathBuf,
}

/// A socket that listens.
pub enum Listener {
    /// TCP.
    Tcp(StdTcp),
    /// Unix, with the path to remove at the end.
    Unix(StdUnix, Option<PathBuf>),
}

/// The same inside the runtime.
pub enum Door {
    /// TCP.
    Tcp(TcpListener),
    /// Unix.
    Unix(UnixListener, Option<PathBuf>),
}

impl Listener {
    /// Opens a socket.
    pub fn open(address: &Address) -> Result<Listener, ServeError> {
        let failed = |what: String| move |error: std::io::Error| ServeError::Listen(what, error);
        match address {
            Address::Tcp(host, port) => {
                let socket = StdTcp::bind((host.as_str(), *port)).map_err(failed(format!("{host}:{port}")))?;
                Ok(Listener::Tcp(socket))
            }
            Address::Unix(path) => {
                let name = path.display().to_string();
                remove_socket(path);
                let socket = StdUnix::bind(path).map_err(failed(name))?;
                Ok(Listener::Unix(socket, Some(path.clone())))
            }
            Address::Activated => {
                let name = || "the service manager's socket (LISTEN_FDS)".to_owned();
                let mut given = listenfd::ListenFd::from_env();
                if let Ok(Some(socket)) = given.take_tcp_listener(0) {
                    return Ok(Listener::Tcp(socket));
                }
                let unix = given.take_unix_listener(0).map_err(failed(name()))?;
                let missing = || ServeError::Listen(name(), std::io::ErrorKind::NotFound.into());
                Ok(Listener::Unix(unix.ok_or_else(missing)?, None))
            }
        }
    }

    /// As callers write it: `127.0.0.1:23333` or the path of a socket.
    pub fn name(&self) -> String {
        match self {
            Listener::Tcp(socket) => socket.local_addr().map_or("tcp".into(), |address| address.to_string()),
            Listener::Unix(socket, _) => {
                let address = socket.local_addr().ok();
                let path = address.as_ref().and_then(|address| address.as_pathname());
                path.map_or("unnamed".into(), |path| path.display().to_string())
            }
        }
    }

    /// The same with the way to speak there: `https://127.0.0.1:23333`, `unix:/run/planish.sock`.
    pub fn url(&self, tls: bool) -> String {
        let scheme = match self {
            Listener::Tcp(_) if tls => "https://",
            Listener::Tcp(_) => "http://",
            Listener::Unix(..) => "unix:",
        };
        scheme.to_owned() + &self.name()
    }

    /// Whether only this machine can reach it.
    pub fn is_local(&self) -> bool {
        match self {
            Listener::Tcp(socket) => socket.local_addr().is_ok_and(|address| address.ip().is_loopback()),
            Listener::Unix(..) => true,
        }
    }

    /// Hands it to the runtime that calls.
    pub fn into_door(self) -> std::io::Result<Door> {
        match self {
            Listener::Tcp(socket) => {
                socket.set_nonblocking(true)?;
                Ok(Door::Tcp(TcpListener::from_std(socket)?))
            }
            Listener::Unix(socket, path) => {
                socket.set_nonblocking(true)?;
                Ok(Door::Unix(UnixListener::from_std(socket)?, path))
            }
        }
    }
}

impl Door {
    /// The next caller, and what tells when it has left.
    pub async fn accept(&self) -> std::io::Result<(Pin<Box<dyn Line>>, Gone)> {
        match self {
            Door::Tcp(listener) => {
                let (socket, _) = listener.accept().await?;
                // Tokens are small, and each is wanted at once.
                socket.set_nodelay(true)?;
                Ok(watch(socket.into_split()))
            }
            Door::Unix(listener, _) => Ok(watch(listener.accept().await?.0.into_split())),
        }
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        if let Door::Unix(_, Some(path)) = self {
            remove_socket(path);
        }
    }
}

/// Removes a socket, never another kind of file.
fn remove_socket(path: &Path) {
    use std::os::unix::fs::FileTypeExt;
    if std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()) {
        // If it cannot be removed, binding says why.
        let _ = std::fs::remove_file(path);
    }
}

impl Tls {
    /// Reads both files.
    pub fn acceptor(&self) -> Result<TlsAcceptor, ServeError> {
        let failed = |path: &Path, why: String| ServeError::Tls(path.display().to_string(), why);
        let chain = CertificateDer::pem_file_iter(&self.cert)
            .and_then(|certs| certs.collect::<Result<Vec<_>, _>>())
            .map_err(|error| failed(&self.cert, error.to_string()))?;
        if chain.is_empty() {
            return Err(failed(&self.cert, "expected a certificate in PEM, found none".into()));
        }
        let key = PrivateKeyDer::from_pem_file(&self.key).map_err(|error| failed(&self.key, error.to_string()))?;
        let config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key);
        let mut config = config.map_err(|error| failed(&self.key, error.to_string()))?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}
