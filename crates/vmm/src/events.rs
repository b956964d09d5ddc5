//! What the machine reports: the engine's events as they are, memory failures as QEMU's monitor
//! would name them, and what becomes of the machine; one JSON object each.

use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use pagemend::{Event, FRAME_SIZE, Gpa, GpaRange};
use pagemend_guest::route::Way;
use serde::Serialize;

/// Name and version of the events' JSON form.
pub const SCHEMA: &str = "pagemend.vm-event/1";

/// Events that a subscriber may be behind before it is cut off: a mender must not wait for one
/// that has stopped reading.
const BACKLOG: usize = 4096;

/// One event.
#[derive(Clone, Debug, Serialize)]
pub struct VmEvent {
    /// Name and version of this form: [`SCHEMA`].
    pub schema: &'static str,
    /// Nanoseconds since the Unix epoch.
    pub time: u64,
    /// What happened.
    #[serde(flatten)]
    pub what: What,
}

/// What happened.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum What {
    /// The engine did a step.
    Mender {
        /// `pagemend.event/1`.
        detail: Event,
    },
    /// Memory failed: what QEMU's monitor calls `MEMORY_FAILURE`, with the address and size that
    /// it does not say.
    #[serde(rename = "MEMORY_FAILURE")]
    MemoryFailure {
        /// Who had to deal with it.
        recipient: Recipient,
        /// What was done.
        action: FailureAction,
        /// What kind of failure it was.
        flags: Flags,
        /// Where it is in the guest.
        gpa: Gpa,
        /// How much is lost, in bytes.
        size: u64,
    },
    /// So much is lost at once that the guest is not told of all of it: of the rest it hears frame
    /// by frame, as it touches them.
    FramesWithheld {
        /// The page that failed.
        gpa: Gpa,
        /// Its size, in bytes.
        size: u64,
        /// Lost frames of which the guest is told untouched.
        told: u64,
        /// Lost frames of which it is not.
        withheld: u64,
    },
    /// An error record lies in the guest's memory for it to read. What follows waits until it has.
    RecordPosted {
        /// The frames that it names.
        gpas: Vec<Gpa>,
    },
    /// The guest has acknowledged an error record.
    RecordRead {
        /// The frames that it named.
        gpas: Vec<Gpa>,
    },
    /// The guest does not read the error records in its memory. They wait.
    RecordsUnread {
        /// For how long it has not, in milliseconds in which it ran.
        unread_ms: u64,
        /// Frames that it has not heard of.
        frames: usize,
    },
    /// What waits to be told is told by another way from now on, because of what the guest has
    /// shown.
    Rerouted {
        /// By which.
        to: Way,
        /// Frames that wait.
        frames: usize,
    },
    /// vCPUs run.
    Resume,
    /// vCPUs stand.
    Pause {
        /// Why, where nobody asked for it.
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// The machine starts again.
    Reset {
        /// Whether the guest wanted it.
        by_guest: bool,
    },
    /// The guest's kernel says that it has panicked.
    GuestPanicked,
    /// The machine has ended.
    Shutdown {
        /// Why.
        reason: String,
    },
}

impl What {
    /// A failure that no vCPU has touched.
    pub(crate) fn failure(recipient: Recipient, action: FailureAction, lost: GpaRange) -> Self {
        Self::MemoryFailure {
            recipient,
            action,
            flags: Flags {
                action_required: false,
                recursive: false,
            },
            gpa: lost.start(),
            size: lost.len(),
        }
    }

    /// A lost frame that a vCPU has touched.
    pub(crate) fn touched(action: FailureAction, recursive: bool, gpa: Gpa) -> Self {
        Self::MemoryFailure {
            recipient: Recipient::Guest,
            action,
            flags: Flags {
                action_required: true,
                recursive,
            },
            gpa: gpa.frame(),
            size: FRAME_SIZE,
        }
    }
}

/// Who had to deal with a failure.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Recipient {
    /// The machine monitor: the guest has lost nothing.
    Hypervisor,
    /// The guest.
    Guest,
}

/// What was done about a failure.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureAction {
    /// Nothing: the memory is not used.
    Ignore,
    /// The guest was given a machine check or a record, or will be when it can take one.
    Inject,
    /// The guest cannot go on.
    Fatal,
    /// The machine starts again.
    Reset,
}

/// What kind of failure it was.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Flags {
    /// Somebody touched it.
    pub action_required: bool,
    /// It came while the guest was dealing with another one.
    pub recursive: bool,
}

/// Where events go.
#[derive(Clone, Default)]
pub struct Hub(Arc<Mutex<Vec<SyncSender<Arc<VmEvent>>>>>);

impl Hub {
    /// Everything that happens from now on. A subscriber that does not read is cut off: its
    /// receiver ends after what it had room for.
    pub fn subscribe(&self) -> Receiver<Arc<VmEvent>> {
        let (sender, receiver) = sync_channel(BACKLOG);
        self.subscribers().push(sender);
        receiver
    }

    pub(crate) fn tell(&self, what: What) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let event = Arc::new(VmEvent {
            schema: SCHEMA,
            time: now.map_or(0, |since| since.as_nanos() as u64),
            what,
        });
        self.subscribers()
            .retain(|subscriber| match subscriber.try_send(Arc::clone(&event)) {
                Ok(()) => true,
                Err(TrySendError::Disconnected(_)) => false,
                Err(TrySendError::Full(_)) => {
                    tracing::warn!("a subscriber of events does not read, and was cut off");
                    false
                }
            });
    }

    fn subscribers(&self) -> std::sync::MutexGuard<'_, Vec<SyncSender<Arc<VmEvent>>>> {
        // A list is whole whoever panicked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subscriber_hears_everything_in_order_and_one_that_does_not_read_is_cut_off() {
        let hub = Hub::default();
        let (reads, stopped) = (hub.subscribe(), hub.subscribe());
        for round in 0..=BACKLOG {
            let reason = round.to_string();
            hub.tell(What::Shutdown { reason });
            let event = reads.recv().unwrap();
            assert!(
                matches!(&event.what, What::Shutdown { reason } if *reason == round.to_string())
            );
        }
        assert_eq!(stopped.iter().count(), BACKLOG);
        drop(reads);
        hub.tell(What::Resume);
        assert!(hub.subscribers().is_empty());
    }
}
