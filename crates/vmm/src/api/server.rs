//! The thread that takes connections, and a thread for each of them.
//!
//! Why no HTTP server crate: of those that are blocking and speak over Unix sockets, micro_http and
//! dbs-uhttp have no answer that is written as it happens, and tiny_http starts threads and waits
//! for slow senders without limit. So httparse reads heads, and the rest is here.

use std::collections::HashMap;
use std::io;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle, Scope};
use std::time::Duration;

use super::socket::ApiSocket;
use super::{MAX_CONNECTIONS, connection};
use crate::Vm;
use crate::seccomp::{self, SeccompError, Task};

/// Why the API is not served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApiError {
    /// No thread.
    #[error("no thread for the API")]
    Thread(#[source] io::Error),
    /// Its thread cannot be confined.
    #[error(transparent)]
    Seccomp(#[from] SeccompError),
}

/// The API of a machine, for as long as this lives.
pub struct Api {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    vm: Arc<Vm>,
    socket: ApiSocket,
    open: Mutex<Open>,
    closed: Condvar,
}

/// Connections that are served.
#[derive(Default)]
struct Open {
    ending: bool,
    next: u64,
    streams: HashMap<u64, Arc<UnixStream>>,
}

impl Api {
    /// Serves the API of `vm` on `socket`.
    pub fn serve(socket: ApiSocket, vm: Arc<Vm>) -> Result<Self, ApiError> {
        let shared = Arc::new(Shared {
            vm,
            socket,
            open: Mutex::default(),
            closed: Condvar::new(),
        });
        let filter = seccomp::filter(Task::Api, shared.vm.config().seccomp)?;
        let taking = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("api".to_owned())
            .spawn(move || match filter.apply() {
                // Ends when all connections have ended.
                Ok(()) => thread::scope(|scope| taking.take_connections(scope)),
                Err(error) => tracing::error!(%error, "the API is not served"),
            })
            .map_err(ApiError::Thread)?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }
}

/// Requests that are being worked on are answered.
impl Drop for Api {
    fn drop(&mut self) {
        {
            let mut open = self.shared.open();
            open.ending = true;
            for stream in open.streams.values() {
                // What the other end has still to send is not waited for.
                let _ = stream.shutdown(Shutdown::Read);
            }
        }
        self.shared.closed.notify_all();
        self.shared.socket.close();
        if let Some(thread) = self.thread.take() {
            // One that panicked takes no connections either.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn open(&self) -> MutexGuard<'_, Open> {
        // Every change is complete in one step.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ending(&self) -> bool {
        self.open().ending
    }

    fn take_connections<'a>(&'a self, scope: &'a Scope<'a, '_>) {
        loop {
            match self.socket.accept() {
                Ok(stream) => self.give_a_thread(scope, stream),
                Err(_) if self.ending() => return,
                Err(error) => {
                    // This one is gone, or descriptors are short, which the connections that are
                    // open now will give back.
                    tracing::warn!(%error, "a connection to the API was not taken");
                    self.wait_for_a_close();
                }
            }
        }
    }

    fn give_a_thread<'a>(&'a self, scope: &'a Scope<'a, '_>, stream: UnixStream) {
        let stream = Arc::new(stream);
        let Some(place) = self.admit(&stream) else {
            return connection::turn_away(&stream);
        };
        let thread = thread::Builder::new().name("api-connection".to_owned());
        let started = thread.spawn_scoped(scope, move || {
            let _place = place;
            seccomp::inherited(Task::Api);
            connection::serve(&stream, &self.vm, &|| self.ending());
        });
        if let Err(error) = started {
            tracing::warn!(%error, "no thread for a connection to the API");
        }
    }

    fn admit(&self, stream: &Arc<UnixStream>) -> Option<Place<'_>> {
        let mut open = self.open();
        if open.ending || open.streams.len() >= MAX_CONNECTIONS {
            return None;
        }
        let id = open.next;
        open.next += 1;
        open.streams.insert(id, Arc::clone(stream));
        Some(Place { shared: self, id })
    }

    /// Waits for a descriptor, though not forever: others may give back some as well.
    fn wait_for_a_close(&self) {
        const PATIENCE: Duration = Duration::from_secs(1);
        let open = self.open();
        let before = open.streams.len();
        // However it ends, the next connection is tried.
        let _ = self.closed.wait_timeout_while(open, PATIENCE, |open| {
            !open.ending && open.streams.len() >= before
        });
    }
}

/// A connection's place, given back however its thread ends.
struct Place<'a> {
    shared: &'a Shared,
    id: u64,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.shared.open().streams.remove(&self.id);
        self.shared.closed.notify_all();
    }
}
