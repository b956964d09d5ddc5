//! Frames that wait to be told by records: which are posted, which are behind them, and what is
//! said of a guest that does not read.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use pagemend_core::address::{Gpa, GpaRange, PageSize};
use serde::Serialize;

use super::record::BLOCK_FRAMES;
use super::source::{Place, Source};
use super::window::Window;
use crate::queue::{Queue, Queued};

/// How long to wait before looking again whether the guest has read a record: short against the
/// second in which Linux polls, and nothing against the cost of running a guest.
pub const LOOK: Duration = Duration::from_millis(100);

/// From when on a guest that does not read is reported. The records wait all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// A record is unread for so long. Time in which nobody looks, as while the machine is paused,
    /// does not count.
    pub time: Duration,
    /// So many frames wait behind it.
    pub waiting: usize,
}

impl Default for Patience {
    /// 30 seconds, in which Linux polls thirty times, and as many frames as a 2 MiB page has.
    fn default() -> Self {
        Self {
            time: Duration::from_secs(30),
            waiting: 512,
        }
    }
}

/// How a guest is told by records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// When a guest that does not read is reported.
    pub patience: Patience,
    /// How many frames of one loss are told: as for
    /// [machine checks](crate::deliver::Config::limit).
    pub limit: usize,
}

/// What was told so far by records and what was not, in frames; [`overdue`](Self::overdue) in
/// records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Put where the guest can read them.
    pub posted: u64,
    /// Acknowledged by the guest.
    pub read: u64,
    /// Records that the guest has left unread for longer than the patience lasts.
    pub overdue: u64,
    /// Taken back, to be told by another way.
    pub withdrawn: u64,
    /// Not told because of the [limit](Config::limit).
    pub withheld: u64,
    /// Not told because the guest was reset before it read them.
    pub dropped: u64,
}

/// A guest that does not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overdue {
    /// How long the record is unread.
    pub unread_for: Duration,
    /// Frames in it, and behind it.
    pub frames: usize,
}

/// What came of looking after the records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tended {
    /// Frames of which the guest has read since the last look.
    pub read: Vec<Gpa>,
    /// Frames that it can read of now.
    pub posted: Vec<Gpa>,
    /// The guest does not read. Said once for each record.
    pub overdue: Option<Overdue>,
    /// Look again after this time.
    pub look_after: Option<Duration>,
}

/// How far the source can be counted on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Condition {
    /// The guest has acknowledged nothing since it was started: it may not know of it.
    #[default]
    Untried,
    /// The guest has acknowledged a record.
    Acknowledged,
    /// The guest has left a record unread for longer than the patience lasts.
    Ignored,
    /// A record was taken back; there are no more before the guest is reset.
    GivenUp,
    /// The memory that it lies in cannot be used.
    Broken,
}

/// The records of one guest by one source: what waits, and what it has read.
#[derive(Debug)]
pub struct Records<W> {
    source: Source<W>,
    config: Config,
    /// Whether there is anything that the guest has not read.
    pending: AtomicBool,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    queue: Queue,
    not_before: Option<Instant>,
    posted: Option<Posted>,
    condition: Condition,
    counts: Counts,
}

#[derive(Debug)]
struct Posted {
    frames: Vec<Gpa>,
    looked: Instant,
    unread_for: Duration,
    reported: bool,
}

impl<W: Window> Records<W> {
    /// For a guest in which nothing was lost yet. The source has to be cleared by a
    /// [`reset`](Self::reset) before the guest starts.
    pub fn new(source: Source<W>, config: Config) -> Self {
        Self {
            source,
            config,
            pending: AtomicBool::new(false),
            inner: Mutex::default(),
        }
    }

    /// Where the source is.
    pub fn place(&self) -> Place {
        self.source.place()
    }

    /// Frames are lost: they wait until they can be posted, and not before `start`, by which those
    /// that a vCPU has touched can be told as such. `lost` is one loss, to which the limit applies.
    pub fn lost(&self, lost: impl IntoIterator<Item = GpaRange>, start: Instant) -> Queued {
        let mut inner = self.inner();
        let queued = inner.queue.add(lost, self.config.limit);
        inner.counts.withheld += queued.withheld;
        inner.not_before = inner.not_before.max(Some(start));
        self.publish(&inner);
        queued
    }

    /// Frames that were to be told by another way wait here. The limit was theirs there.
    pub fn wait(&self, frames: impl IntoIterator<Item = Gpa>, now: Instant) {
        let pages = frames.into_iter();
        let pages = pages.map(|gpa| GpaRange::page(gpa, PageSize::SIZE_4K));
        let mut inner = self.inner();
        inner.queue.add(pages, usize::MAX);
        inner.not_before = inner.not_before.max(Some(now));
        self.publish(&inner);
    }

    /// The guest has heard of the frame in another way. One that is posted already is told again.
    pub fn told(&self, gpa: Gpa) {
        let mut inner = self.inner();
        inner.queue.remove(gpa.frame());
        self.publish(&inner);
    }

    /// Sees what the guest has read, and posts what comes next. To be called after
    /// [`lost`](Self::lost) and whenever [`look_after`](Tended::look_after) says, from anywhere but
    /// the mender's thread; where nothing is to be done it costs one load.
    ///
    /// # Errors
    ///
    /// The window's: the source is [broken](Condition::Broken) from then on, and everything that the
    /// guest has not read waits.
    pub fn tend(&self, now: Instant) -> Result<Tended, W::Error> {
        let mut tended = Tended::default();
        if !self.is_pending() {
            return Ok(tended);
        }
        let mut inner = self.inner();
        let done = self
            .see(&mut inner, now, &mut tended)
            .and_then(|()| self.post(&mut inner, now, &mut tended));
        if done.is_err() {
            inner.condition = Condition::Broken;
            inner.put_back();
        } else if inner.can_post() && !inner.is_empty() {
            tended.look_after = Some(LOOK);
        }
        self.publish(&inner);
        done.map(|()| tended)
    }

    fn see(&self, inner: &mut Inner, now: Instant, tended: &mut Tended) -> Result<(), W::Error> {
        let waiting = inner.queue.len();
        let Some(posted) = &mut inner.posted else {
            return Ok(());
        };
        if self.source.is_read()? {
            inner.condition = Condition::Acknowledged;
            inner.counts.read += posted.frames.len() as u64;
            tended.read = std::mem::take(&mut posted.frames);
            inner.posted = None;
            return Ok(());
        }
        let since = now.saturating_duration_since(posted.looked);
        posted.unread_for += since.min(2 * LOOK);
        posted.looked = now;
        let patience = self.config.patience;
        let over = posted.unread_for >= patience.time || waiting >= patience.waiting;
        if over && !posted.reported {
            posted.reported = true;
            inner.condition = Condition::Ignored;
            inner.counts.overdue += 1;
            tended.overdue = Some(Overdue {
                unread_for: posted.unread_for,
                frames: posted.frames.len() + waiting,
            });
        }
        Ok(())
    }

    fn post(&self, inner: &mut Inner, now: Instant, tended: &mut Tended) -> Result<(), W::Error> {
        let early = inner.not_before.is_some_and(|start| now < start);
        if inner.posted.is_some() || !inner.can_post() || early {
            return Ok(());
        }
        let frames = inner.queue.take_first(BLOCK_FRAMES);
        if frames.is_empty() {
            return Ok(());
        }
        inner.counts.posted += frames.len() as u64;
        tended.posted.clone_from(&frames);
        let frames = &inner.posted.insert(Posted {
            frames,
            looked: now,
            unread_for: Duration::ZERO,
            reported: false,
        });
        self.source.post(&frames.frames)
    }

    /// Whether there is anything that the guest has not read.
    pub fn is_pending(&self) -> bool {
        self.pending.load(Ordering::Acquire)
    }

    /// How far the source can be counted on.
    pub fn condition(&self) -> Condition {
        self.inner().condition
    }

    /// Frames that the guest has not read of, first those that are posted.
    pub fn waiting(&self) -> Vec<Gpa> {
        let inner = self.inner();
        let posted = inner.posted.iter().flat_map(|posted| &posted.frames);
        posted.copied().chain(inner.queue.iter()).collect()
    }

    /// What was told so far and what was not.
    pub fn counts(&self) -> Counts {
        self.inner().counts
    }

    /// What waits is to be told by another way: it is given back, and nothing is posted any more
    /// before the guest is reset if it has to take back a record for that.
    ///
    /// A guest that is reading that record in this very moment hears of it both ways.
    pub fn take_waiting(&self) -> Vec<Gpa> {
        let mut inner = self.inner();
        if let Some(posted) = inner.posted.take() {
            let withdrawn = self.source.withdraw();
            inner.condition = match withdrawn {
                Ok(_) => Condition::GivenUp,
                Err(_) => Condition::Broken,
            };
            if let Ok(true) = withdrawn {
                inner.counts.read += posted.frames.len() as u64;
            } else {
                inner.posted = Some(posted);
                inner.put_back();
            }
        }
        let taken = inner.queue.take();
        inner.counts.withdrawn += taken.len() as u64;
        self.publish(&inner);
        taken
    }

    /// The guest is reset: what it has not read is not told any more, and given back; the source is
    /// as firmware leaves it. To be called while no vCPU runs, after the guest's memory was renewed.
    ///
    /// # Errors
    ///
    /// The window's. The source is [broken](Condition::Broken) then.
    pub fn reset(&self) -> Result<Vec<Gpa>, W::Error> {
        let mut inner = self.inner();
        inner.put_back();
        let dropped = inner.queue.take();
        inner.counts.dropped += dropped.len() as u64;
        inner.not_before = None;
        let cleared = self.source.clear();
        inner.condition = match cleared {
            Ok(()) => Condition::Untried,
            Err(_) => Condition::Broken,
        };
        self.publish(&inner);
        cleared.map(|()| dropped)
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Nothing in here can panic half way.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, inner: &Inner) {
        self.pending.store(!inner.is_empty(), Ordering::Release);
    }
}

impl Inner {
    fn can_post(&self) -> bool {
        !matches!(self.condition, Condition::GivenUp | Condition::Broken)
    }

    fn is_empty(&self) -> bool {
        self.posted.is_none() && self.queue.len() == 0
    }

    /// What is posted was not told: it is first in line again.
    fn put_back(&mut self) {
        let posted = self.posted.take().map(|posted| posted.frames);
        for gpa in posted.into_iter().flatten().rev() {
            self.queue.put_back(gpa);
        }
    }
}
