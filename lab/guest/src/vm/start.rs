//! A guest from its VMM's start to the moment when its walker walks, and each time that it starts again.

use super::line::{Heard, Line};
use super::memory::GuestMemory;
use super::wish::Wish;
use super::{LAST_WORDS, Vm, said};
use crate::trial::Trial;
use anyhow::{Context, Result, bail};
use pagemend_lab_protocol::STARTED_AGAIN;
use pagemend_lab_protocol::walker::{Order, Word};
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Who is not up after so long does not come up, also on a busy machine.
const COMING_UP: Duration = Duration::from_secs(60);

/// How often a guest is started that is gone before anything has failed.
const STARTS: usize = 3;

impl Vm {
    /// Starts it, and returns when its walker walks. The emulated machine loses a guest now and then before anything has failed in it (docs/lab.md): it is started again then, and the result says so.
    pub(crate) fn start(t: &mut Trial, wish: &Wish) -> Result<Self> {
        for _ in 1..STARTS {
            match Self::start_once(t, wish) {
                Ok(vm) => return Ok(vm),
                Err(error) => t.step(format!("{STARTED_AGAIN}: {error:#}")),
            }
        }
        Self::start_once(t, wish)
    }

    fn start_once(t: &mut Trial, wish: &Wish) -> Result<Self> {
        let directory = PathBuf::from(format!("/tmp/vm-{}", std::process::id()));
        fs::create_dir_all(&directory).context("cannot make a directory for a guest")?;
        t.step(format!("a guest: {wish}"));
        let listener = Line::listen(&directory)?;
        let child = wish.spawn(&directory)?;
        let line = Line::accept(listener, &child, t.deadline());
        let line = line.with_context(|| said(&directory))?;
        let mut vm = Self {
            memory: GuestMemory::unknown(child.id(), wish.memory),
            child,
            line,
            directory,
            deadline: t.deadline() - LAST_WORDS,
            vmm: wish.vmm,
            paused: false,
            silent: false,
            owned: 0,
            failed: Vec::new(),
            decoded_before: None,
        };
        vm.greet(t)?;
        vm.memory = GuestMemory::find(vm.child.id(), wish.memory)?;
        Ok(vm)
    }

    /// Waits for the walker of a boot.
    fn greet(&mut self, t: &mut Trial) -> Result<()> {
        match self
            .line
            .hear(self.deadline.min(Instant::now() + COMING_UP))?
        {
            Heard::Word(word) => self.met(t, word),
            Heard::End => bail!(
                "the VMM ended before its guest was up: {}",
                said(&self.directory)
            ),
            Heard::Silence => bail!("the guest does not come up: {}", self.last_words()),
        }
    }

    /// Takes a walker's first word.
    pub(super) fn met(&mut self, t: &mut Trial, word: Word) -> Result<()> {
        let Word::Hello {
            kernel,
            vendor,
            cpus,
            owned,
            troubles,
        } = word
        else {
            bail!("the walker said {word:?} before it was up");
        };
        t.step(format!(
            "{kernel} on {cpus} {vendor} owns {} MiB",
            owned >> 20
        ));
        if !troubles.is_empty() {
            bail!("the guest could not be set up: {}", troubles.join("; "));
        }
        self.owned = owned;
        Ok(())
    }

    /// Has the guest start again by itself, and returns when it walks.
    pub(crate) fn restart(&mut self, t: &mut Trial) -> Result<()> {
        self.line.say(&Order::Restart)?;
        self.failed.clear();
        self.greet(t)
    }

    /// Has the VMM start the guest again, and returns when it walks.
    pub(crate) fn reset(&mut self, t: &mut Trial) -> Result<()> {
        self.steer("vm.reset")?;
        self.failed.clear();
        self.greet(t)
    }
}
