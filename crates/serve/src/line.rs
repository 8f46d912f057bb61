//! One connection, and what tells that its caller has left. HTTP reads no further while an answer is made if anything
//! followed the request, and would not see the end: so the socket itself is watched.
use std::future::Future;
use std::io::{ErrorKind, IoSlice, Result};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{tcp, unix};

/// One connection.
pub trait Line: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Line for T {}

/// Comes when a caller sends no more, whether it closed the connection or its own half.
pub type Gone = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A caller's line, and the end of it.
pub fn watch<R: Reading, W: AsyncWrite + Send + Unpin + 'static>((read, write): (R, W)) -> (Pin<Box<dyn Line>>, Gone) {
    let read = Arc::new(read);
    (Box::pin(Watched { read: read.clone(), write }), read.gone())
}

/// The half of a socket that is read.
pub trait Reading: Send + Sync + 'static {
    /// Whether there is something to read, or an end.
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<Result<()>>;
    /// What is there.
    fn take(&self, buf: &mut ReadBuf<'_>) -> Result<usize>;
    /// Comes with the end, whatever is still to be read before it.
    fn gone(self: Arc<Self>) -> Gone;
}

macro_rules! reading {
    ($half:ty) => {
        impl Reading for $half {
            fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<Result<()>> {
                self.as_ref().poll_read_ready(cx)
            }

            fn take(&self, buf: &mut ReadBuf<'_>) -> Result<usize> {
                self.try_read_buf(buf)
            }

            #[cfg(any(target_os = "linux", target_os = "android"))]
            fn gone(self: Arc<Self>) -> Gone {
                Box::pin(async move {
                    // Priority data is not subscribed to: of what this waits for, only the end ever comes.
                    let ready = self.ready(tokio::io::Interest::PRIORITY).await;
                    if !ready.is_ok_and(|ready| ready.is_read_closed()) {
                        std::future::pending::<()>().await;
                    }
                })
            }

            /// Elsewhere the end is seen where it is read.
            #[cfg(not(any(target_os = "linux", target_os = "android")))]
            fn gone(self: Arc<Self>) -> Gone {
                Box::pin(std::future::pending())
            }
        }
    };
}
reading!(tcp::OwnedReadHalf);
reading!(unix::OwnedReadHalf);

/// A socket in its two halves, the one that is read shared with its watcher.
struct Watched<R, W> {
    read: Arc<R>,
    write: W,
}

impl<R: Reading, W: Unpin> AsyncRead for Watched<R, W> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        loop {
            ready!(self.read.poll_readable(cx))?;
            match self.read.take(buf) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                read => return Poll::Ready(read.map(drop)),
            }
        }
    }
}

impl<R: Reading, W: AsyncWrite + Unpin> AsyncWrite for Watched<R, W> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<Result<usize>> {
        Pin::new(&mut self.write).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        Pin::new(&mut self.write).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.write.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.write).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.write).poll_shutdown(cx)
    }
}
