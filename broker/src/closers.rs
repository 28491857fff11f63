//! Connections on kernels that pass descriptors that peers send along (before Linux 6.16).
//!
//! Who drops the last reference to a passed file closes it, and some closes sleep: that of a TCP socket that lingers for
//! as long as its owner likes. So on such kernels the serving thread drops none. It looks at what has come before it
//! takes it, and takes nothing that a descriptor comes with; a socket in which anything is left unread is closed by a
//! thread of its own, a closer. Each uid that may connect has one, so that it holds up nobody's places but its own.

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

/// Refused connections that may wait to be closed.
const REFUSED_WAITING: usize = 256;

/// Threads that close refused connections.
const REFUSED_CLOSERS: usize = 4;

/// The stack of a closer.
const STACK_BYTES: usize = 64 << 10;

/// Bytes that are looked at before they are taken.
const LOOK_BYTES: usize = 16 << 10;

/// What waits to be closed, and the threads that do it.
#[derive(Debug, Default)]
struct Line {
    state: Mutex<State>,
    filled: Condvar,
    started: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<(OwnedFd, OwnedSemaphorePermit)>,
    threads: usize,
}

impl Line {
    /// Starts as many threads, and waits until they need no system calls but those of closing.
    fn start(threads: usize) -> io::Result<Arc<Self>> {
        let line = Arc::new(Self::default());
        for _ in 0..threads {
            let of_thread = line.clone();
            let thread = std::thread::Builder::new().name("closer".to_owned()).stack_size(STACK_BYTES);
            thread.spawn(move || of_thread.run())?;
        }
        let mut state = lock(&line.state);
        while state.threads < threads {
            state = line.started.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        drop(state);
        Ok(line)
    }

    fn run(&self) {
        let signals = keyhole_os::closing::Interrupted::new();
        let mut state = lock(&self.state);
        state.threads += 1;
        self.started.notify_all();
        loop {
            let Some((socket, place)) = state.waiting.pop_front() else {
                state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            drop(state);
            signals.close(socket);
            // Not before: a uid whose sockets take long to close waits for them, and nobody else does.
            drop(place);
            state = lock(&self.state);
        }
    }

    /// Has a socket closed; its place is free from then on. The places bound how many wait.
    fn close(&self, socket: OwnedFd, place: OwnedSemaphorePermit) {
        lock(&self.state).waiting.push_back((socket, place));
        self.filled.notify_one();
    }
}

/// The closers of every uid that may connect, and of those that may not.
#[derive(Debug)]
pub struct Closers {
    allowed: HashMap<u32, Arc<Line>>,
    refused: Arc<Line>,
    places: Arc<Semaphore>,
}

impl Closers {
    /// Starts the threads: after the layers that a thread inherits, before the filter that lets none begin.
    pub fn start(allowed: &[u32]) -> io::Result<Self> {
        keyhole_os::closing::handle()?;
        let mut lines = HashMap::new();
        for uid in allowed {
            if !lines.contains_key(uid) {
                lines.insert(*uid, Line::start(1)?);
            }
        }
        let places = Arc::new(Semaphore::new(REFUSED_WAITING));
        Ok(Self { allowed: lines, refused: Line::start(REFUSED_CLOSERS)?, places })
    }

    /// A connection of a uid, which has its place until its socket is closed; nothing for a uid that may not connect.
    pub fn keep(&self, stream: UnixStream, uid: Option<u32>, place: OwnedSemaphorePermit) -> Option<Kept> {
        // Bytes out of band come in their order then: what is looked at is what is taken.
        let _ = sockopt::set_socket_oobinline(&stream, true);
        let line = self.allowed.get(&uid?)?.clone();
        Some(Kept(Arc::new(Inner { stream: Some(stream), place: Some(place), line })))
    }

    /// Closes a connection that was refused. Waits while too many of them are being closed.
    pub async fn refuse(&self, stream: UnixStream, waits: impl FnOnce()) {
        if is_empty(&stream) {
            return drop(stream);
        }
        let place = match self.places.clone().try_acquire_owned() {
            Ok(place) => Ok(place),
            Err(_) => {
                waits();
                self.places.clone().acquire_owned().await
            }
        };
        // Deregistered first: the wait of the serving thread holds what it looks at.
        if let (Ok(place), Ok(stream)) = (place, stream.into_std()) {
            self.refused.close(stream.into(), place);
        }
    }
}

/// Ends a connection, and says whether nothing of the peer's is left in it, and nothing can come.
fn is_empty(stream: &UnixStream) -> bool {
    let ended = rustix::net::shutdown(stream, Shutdown::Both);
    ended.is_ok() && matches!(look(stream, &mut [0; 1]), Ok(0))
}

/// Copies what has come and leaves it where it is; an error where a descriptor comes with it.
fn look(stream: &UnixStream, bytes: &mut [u8]) -> io::Result<usize> {
    // Without room for descriptors none is taken; that there were any is said by a flag.
    let mut none = RecvAncillaryBuffer::default();
    match recvmsg(stream, &mut [IoSliceMut::new(bytes)], &mut none, RecvFlags::PEEK) {
        Ok(seen) if seen.flags.contains(ReturnFlags::CTRUNC) => {
            Err(io::Error::other("the peer passed a descriptor"))
        }
        Ok(seen) => Ok(seen.bytes),
        Err(errno) => Err(errno.into()),
    }
}

/// A connection whose socket is closed by a closer. Each clone is one half.
#[derive(Debug, Clone)]
pub struct Kept(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    stream: Option<UnixStream>,
    place: Option<OwnedSemaphorePermit>,
    line: Arc<Line>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        let Some(stream) = self.stream.take() else { return };
        if is_empty(&stream) {
            return drop(stream);
        }
        if let (Some(place), Ok(stream)) = (self.place.take(), stream.into_std()) {
            self.line.close(stream.into(), place);
        }
    }
}

impl Kept {
    fn stream(&self) -> io::Result<&UnixStream> {
        self.0.stream.as_ref().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl AsyncRead for Kept {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let stream = self.stream()?;
        loop {
            ready!(stream.poll_read_ready(context))?;
            let taken = stream.try_io(Interest::READABLE, || {
                let mut seen = [0; LOOK_BYTES];
                let most = buffer.remaining().min(LOOK_BYTES);
                let Some(seen) = seen.get_mut(..most) else { return Ok(0) };
                let length = look(stream, seen)?;
                // Exactly those bytes: what comes behind them was not looked at.
                let Some(seen) = seen.get_mut(..length).filter(|seen| !seen.is_empty()) else { return Ok(0) };
                let (taken, _) = rustix::net::recv(stream, &mut *seen, RecvFlags::empty())?;
                buffer.put_slice(seen.get(..taken).unwrap_or_default());
                Ok(taken)
            });
            match taken {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                taken => return Poll::Ready(taken.map(drop)),
            }
        }
    }
}

impl AsyncWrite for Kept {
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
