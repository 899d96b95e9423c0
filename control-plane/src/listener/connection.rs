//! One connection and who is at its other end.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Sleep;
use tonic::transport::server::Connected;

use crate::identity::Identity;

/// Bytes both ways and an [`Identity`], which `tonic` puts into the extensions of each request.
pub struct Connection {
    io: Box<dyn Bytes>,
    identity: Identity,
    /// Reading fails from here on.
    deadline: Option<Pin<Box<Sleep>>>,
    /// One of the listener's places.
    _place: Option<OwnedSemaphorePermit>,
}

trait Bytes: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Bytes for T {}

impl Connection {
    /// A connection that needs no place and has no deadline.
    pub(super) fn new(io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, identity: Identity) -> Self {
        Self { io: Box::new(io), identity, deadline: None, _place: None }
    }

    /// Holds one of the listener's places until it is dropped.
    pub(super) fn placed(self, place: OwnedSemaphorePermit) -> Self {
        Self { _place: Some(place), ..self }
    }

    /// Ends after a time.
    pub(super) fn ending_after(self, time: Duration) -> Self {
        Self { deadline: Some(Box::pin(tokio::time::sleep(time))), ..self }
    }

    /// Who is at the other end.
    #[must_use]
    pub const fn identity(&self) -> &Identity {
        &self.identity
    }
}

impl Connected for Connection {
    type ConnectInfo = Identity;

    fn connect_info(&self) -> Identity {
        self.identity.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.deadline.as_mut().is_some_and(|deadline| deadline.as_mut().poll(cx).is_ready()) {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
