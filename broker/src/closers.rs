//! Connections on kernels that accept descriptors which peers pass along (before Linux 6.16).
//!
//! The thread that drops the last reference to a passed file closes it, and some closes sleep, such as that of a TCP socket with
//! SO_LINGER. So on these kernels the serving thread must not drop any. It peeks at bytes before it receives them, and
//! receives none that come with a descriptor; a socket with unread bytes is closed by another thread, a closer. Each uid
//! that may connect has a closer of its own, so that it delays only its own connections.

use std::collections::{HashMap, VecDeque};
use std::io::{self, IoSliceMut};
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use rustix::net::{RecvAncillaryBuffer, RecvFlags, ReturnFlags, Shutdown, recvmsg, sockopt};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::UnixStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::lock;

/// The most refused connections that wait to be closed.
const MAX_REFUSED_WAITING: usize = 256;

/// The number of threads that close refused connections.
const REFUSED_CLOSERS: usize = 4;

/// The stack size of a closer.
const STACK_BYTES: usize = 64 << 10;

/// The most bytes that are peeked at and received at once.
const PEEK_BYTES: usize = 16 << 10;

/// Sockets that wait to be closed, and the threads that close them.
#[derive(Debug, Default)]
struct CloseQueue {
    state: Mutex<State>,
    filled: Condvar,
    started: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<(OwnedFd, OwnedSemaphorePermit)>,
    threads: usize,
}

impl CloseQueue {
    /// Starts `threads` threads, and waits until they need no further system calls than those of closing.
    fn start(threads: usize) -> io::Result<Arc<Self>> {
        let queue = Arc::new(Self::default());
        for _ in 0..threads {
            let thread_queue = queue.clone();
            let thread = std::thread::Builder::new().name("closer".to_owned()).stack_size(STACK_BYTES);
            thread.spawn(move || thread_queue.run())?;
        }
        let mut state = lock(&queue.state);
        while state.threads < threads {
            state = queue.started.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        drop(state);
        Ok(queue)
    }

    fn run(&self) {
        let closer = keyhole_os::closing::InterruptedCloser::new();
        let mut state = lock(&self.state);
        state.threads += 1;
        self.started.notify_all();
        loop {
            let Some((socket, permit)) = state.waiting.pop_front() else {
                state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            drop(state);
            closer.close(socket);
            // Only now: a uid whose sockets take long to close waits for them, and no other uid does.
            drop(permit);
            state = lock(&self.state);
        }
    }

    /// Queues a socket, with the permit of its connection, which is released when it is closed. The permits bound how many
    /// wait.
    fn close(&self, socket: OwnedFd, permit: OwnedSemaphorePermit) {
        lock(&self.state).waiting.push_back((socket, permit));
        self.filled.notify_one();
    }
}

/// The closers of each uid that may connect, and those of refused connections.
#[derive(Debug)]
pub struct Closers {
    allowed: HashMap<u32, Arc<CloseQueue>>,
    refused: Arc<CloseQueue>,
    permits: Arc<Semaphore>,
}

impl Closers {
    /// Starts the threads. Call it after the layers that a thread inherits, and before the filter that lets no thread start.
    pub fn start(allowed: &[u32]) -> io::Result<Self> {
        keyhole_os::closing::install_handler()?;
        let mut queues = HashMap::new();
        for uid in allowed {
            if !queues.contains_key(uid) {
                queues.insert(*uid, CloseQueue::start(1)?);
            }
        }
        let permits = Arc::new(Semaphore::new(MAX_REFUSED_WAITING));
        Ok(Self { allowed: queues, refused: CloseQueue::start(REFUSED_CLOSERS)?, permits })
    }

    /// Wraps a connection of a uid, so that a closer closes it and then releases the permit; none if the uid may not
    /// connect.
    pub fn wrap(
        &self,
        stream: UnixStream,
        uid: Option<u32>,
        permit: OwnedSemaphorePermit,
    ) -> Option<DeferredCloseStream> {
        // With out-of-band bytes in order, the bytes that are peeked at are those that are received.
        let _ = sockopt::set_socket_oobinline(&stream, true);
        let queue = self.allowed.get(&uid?)?.clone();
        Some(DeferredCloseStream(Arc::new(Inner { stream: Some(stream), permit: Some(permit), queue })))
    }

    /// Closes a connection that was refused. Waits while too many of them are being closed.
    pub async fn refuse(&self, stream: UnixStream, on_wait: impl FnOnce()) {
        if is_empty(&stream) {
            return drop(stream);
        }
        let permit = match self.permits.clone().try_acquire_owned() {
            Ok(permit) => Ok(permit),
            Err(_) => {
                on_wait();
                self.permits.clone().acquire_owned().await
            }
        };
        // into_std deregisters it first: epoll of the serving thread would hold a reference.
        if let (Ok(permit), Ok(stream)) = (permit, stream.into_std()) {
            self.refused.close(stream.into(), permit);
        }
    }
}

/// Shuts a connection down; returns whether nothing of the peer is left in it, and nothing can follow.
fn is_empty(stream: &UnixStream) -> bool {
    let shutdown = rustix::net::shutdown(stream, Shutdown::Both);
    shutdown.is_ok() && matches!(peek(stream, &mut [0; 1]), Ok(0))
}

/// Copies received bytes and leaves them in the socket; an error if a descriptor comes with them.
fn peek(stream: &UnixStream, bytes: &mut [u8]) -> io::Result<usize> {
    // Without a buffer for descriptors none is received, and a flag reports that there were some.
    let mut none = RecvAncillaryBuffer::default();
    match recvmsg(stream, &mut [IoSliceMut::new(bytes)], &mut none, RecvFlags::PEEK) {
        Ok(peeked) if peeked.flags.contains(ReturnFlags::CTRUNC) => {
            Err(io::Error::other("the peer passed a descriptor"))
        }
        Ok(peeked) => Ok(peeked.bytes),
        Err(errno) => Err(errno.into()),
    }
}

/// A connection whose socket a closer closes. Each clone is one half of it.
#[derive(Debug, Clone)]
pub struct DeferredCloseStream(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    stream: Option<UnixStream>,
    permit: Option<OwnedSemaphorePermit>,
    queue: Arc<CloseQueue>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        let Some(stream) = self.stream.take() else { return };
        if is_empty(&stream) {
            return drop(stream);
        }
        if let (Some(permit), Ok(stream)) = (self.permit.take(), stream.into_std()) {
            self.queue.close(stream.into(), permit);
        }
    }
}

impl DeferredCloseStream {
    fn stream(&self) -> io::Result<&UnixStream> {
        self.0.stream.as_ref().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl AsyncRead for DeferredCloseStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let stream = self.stream()?;
        loop {
            ready!(stream.poll_read_ready(context))?;
            let received = stream.try_io(Interest::READABLE, || {
                let mut peeked = [0; PEEK_BYTES];
                let most = buffer.remaining().min(PEEK_BYTES);
                let Some(peeked) = peeked.get_mut(..most) else { return Ok(0) };
                let length = peek(stream, peeked)?;
                // Exactly the bytes that were peeked at, and none that follow.
                let Some(peeked) = peeked.get_mut(..length).filter(|peeked| !peeked.is_empty()) else {
                    return Ok(0);
                };
                let (received, _) = rustix::net::recv(stream, &mut *peeked, RecvFlags::empty())?;
                buffer.put_slice(peeked.get(..received).unwrap_or_default());
                Ok(received)
            });
            match received {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                received => return Poll::Ready(received.map(drop)),
            }
        }
    }
}

impl AsyncWrite for DeferredCloseStream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[io::IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let stream = self.stream()?;
        loop {
            ready!(stream.poll_write_ready(context))?;
            match stream.try_write_vectored(parts) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(rustix::net::shutdown(self.stream()?, Shutdown::Write).map_err(Into::into))
    }
}
