//! A virtual machine on the model: the engine, its host, and the loop that answers faults.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write;

use pagemend_core::address::{FRAME_SIZE, Gpa, GpaRange, Hva, PageSize};
use pagemend_core::event::{Event, Step};
use pagemend_core::fault::{Evidence, Verdict};
use pagemend_core::host::Host;
use pagemend_core::ledger::Cause;
use pagemend_core::map::{Backing, FileId, Region, Source};
use pagemend_core::mender::{Healed, Mender, Reset};
use pagemend_core::plan::{Action, Capabilities};
use pagemend_core::policy::{Consumer, Filling, Heal, Policy};

use super::ModelHost;
use super::guest::{Guest, Truth};
use super::others::{Budget, Others, Touch, Waiter};
use super::physical::{Kind, Object, Physical};
use super::violation::Violation;
use super::watch::Watch;

/// A host that has the model below it: the model itself, or one that breaks its contract.
pub(crate) trait Modelled: Host {
    fn model(&self) -> &ModelHost;
    fn model_mut(&mut self) -> &mut ModelHost;
}

impl Modelled for ModelHost {
    fn model(&self) -> &ModelHost {
        self
    }
    fn model_mut(&mut self) -> &mut ModelHost {
        self
    }
}

/// A region of guest memory to be made.
#[derive(Clone, Debug)]
pub(crate) struct Ram {
    pub(crate) backing: Backing,
    pub(crate) page_size: PageSize,
    pub(crate) pages: u64,
    pub(crate) policy: Policy,
    pub(crate) filling: Filling,
    pub(crate) heal: Heal,
    pub(crate) consumers: Vec<Consumer>,
}

impl Ram {
    /// Two shared huge pages of `page_size`, to be mended.
    pub(crate) fn hugetlb(page_size: PageSize) -> Self {
        Self {
            backing: Backing::Hugetlb,
            page_size,
            pages: 2,
            policy: Policy::Mend,
            filling: Filling::OnDemand,
            heal: Heal::Never,
            consumers: vec![],
        }
    }

    /// The same, mended as one.
    pub(crate) fn eager(page_size: PageSize) -> Self {
        Self {
            filling: Filling::Eager,
            ..Self::hugetlb(page_size)
        }
    }
}

/// The engine on a host.
pub(crate) struct Vm<H: Modelled> {
    pub(crate) mender: Mender<H>,
}

impl Vm<ModelHost> {
    pub(crate) fn new(ram: &[Ram]) -> Self {
        Self::on(ram, |model| model)
    }
}

impl<H: Modelled> Vm<H> {
    /// The engine on what `host` makes of the model.
    pub(crate) fn on(ram: &[Ram], host: impl FnOnce(ModelHost) -> H) -> Self {
        let mut physical = Physical::default();
        let mut guest = Guest::default();
        let regions: Vec<Region> = (0..).zip(ram).map(|(n, ram)| region(n, ram)).collect();
        for (region, ram) in regions.iter().zip(ram) {
            let kind = Kind {
                backing: ram.backing,
                page_size: ram.page_size,
            };
            let kinds = vec![kind; usize::try_from(ram.pages).expect("few")];
            let object = physical.add(Object::new(ram.pages * ram.page_size.frames(), kinds));
            guest.add(region, object, &mut physical);
        }
        let model = ModelHost {
            physical,
            guest,
            watch: Watch::default(),
            others: Others {
                random: None,
                budget: Budget {
                    touches: 0,
                    errors: 0,
                    refused_percent: 0,
                },
                script: vec![],
                queue: VecDeque::new(),
                leases: vec![],
                evidence: Evidence::MemoryFailure,
                pausable: false,
            },
            capabilities: Capabilities {
                salvage: true,
                poison: true,
                keep: false,
            },
            pool: BTreeMap::new(),
            thp: false,
            holes: BTreeSet::new(),
            refuse: None,
            calls: 0,
            paused: false,
            covers: BTreeMap::new(),
            dear: None,
            clock: 0.into(),
        };
        let mut mender = Mender::new(host(model), ["guest"]);
        for region in regions {
            mender.add_region(region).expect("the regions are apart");
        }
        Self { mender }
    }

    pub(crate) fn model(&self) -> &ModelHost {
        self.mender.host().model()
    }

    pub(crate) fn model_mut(&mut self) -> &mut ModelHost {
        self.mender.host_mut().model_mut()
    }

    /// Lets the kernel keep poisoned pages mapped, where the policy asks for it: that takes a flag
    /// when the memory is made, which only shared hugetlb memory can have.
    pub(crate) fn allow_keep(&mut self) {
        let wanted =
            |region: &&Region| region.policy == Policy::Keep && region.backing == Backing::Hugetlb;
        let starts = self.mender.map().regions().filter(wanted);
        let starts: Vec<Gpa> = starts.map(|region| region.gpa.start()).collect();
        let model = self.model_mut();
        model.capabilities.keep = true;
        for gpa in starts {
            model
                .physical
                .keep(model.guest.cell(gpa).place.object, true);
        }
    }

    /// The guest address of a frame, counted through all regions.
    pub(crate) fn gpa(&self, frame: u64) -> Gpa {
        self.model().guest.nth(frame)
    }

    pub(crate) fn strike(&mut self, frame: u64) {
        let gpa = self.gpa(frame);
        self.model_mut().strike(gpa);
    }

    /// An error in memory that the kernel cannot take out of the mappings.
    pub(crate) fn strike_in_place(&mut self, frame: u64) {
        let gpa = self.gpa(frame);
        let place = self.model().guest.cell(gpa).place;
        let struck = self.model_mut().physical.frame_mut(place);
        (struck.error, struck.left) = (true, true);
    }

    /// A thread touches a frame until that works or the frame is lost.
    pub(crate) fn touch(&mut self, frame: u64, touch: Touch) -> Option<()> {
        let gpa = self.gpa(frame);
        let done = self.model_mut().touch(gpa, touch);
        self.settle();
        done.or_else(|| (!self.model().guest.cell(gpa).told).then_some(()))
    }

    pub(crate) fn load(&mut self, frame: u64) -> Option<()> {
        self.touch(frame, Touch::Load)
    }

    /// The kernel reports a frame that nobody touched.
    pub(crate) fn scrub(&mut self, frame: u64) -> Verdict {
        let gpa = self.gpa(frame);
        self.model_mut().report(gpa, Cause::ActionOptional, None);
        let waiter = self.model_mut().others.queue.pop_back();
        self.answer(&waiter.expect("it was queued just now"))
    }

    fn answer(&mut self, waiter: &Waiter) -> Verdict {
        let verdict = self.mender.handle(waiter.fault);
        let (model, ledger) = (self.model(), self.mender.ledger());
        let agrees = model.watch.agrees_with(&model.guest, ledger);
        let model = self.model_mut();
        if !agrees {
            model.watch.broken(Violation::LedgerDiffers);
        }
        model.watch.answered(&model.guest, waiter.gpa, verdict);
        let struck = |model: &ModelHost| {
            let place = model.guest.cell(waiter.gpa).place;
            model.physical.frame(place).is_struck()
        };
        if let (Verdict::Mended, Some(touch)) = (verdict, waiter.touch)
            && model.touch(waiter.gpa, touch).is_none()
            && !struck(model)
        {
            let gpa = waiter.gpa;
            model.watch.broken(Violation::HealthyByteLost { gpa });
        }
        verdict
    }

    /// Answers every fault that waits and those that come of it, and completes every page.
    pub(crate) fn settle(&mut self) {
        for _ in 0..10_000 {
            if self.model_mut().others.are_slow() {
                self.step();
            }
            if let Some(waiter) = self.model_mut().others.queue.pop_front() {
                self.answer(&waiter);
            } else if !self.is_filling() {
                return;
            } else {
                self.step();
            }
        }
        panic!("faults do not end");
    }

    fn is_filling(&self) -> bool {
        self.mender.progress().next().is_some()
    }

    /// The engine fills something in the background.
    pub(crate) fn step(&mut self) {
        let filling = self.is_filling();
        let left = self.mender.step();
        assert_eq!(left, self.is_filling(), "it says whether something is left");
        let (model, ledger) = (self.model(), self.mender.ledger());
        let agrees = model.watch.agrees_with(&model.guest, ledger);
        let model = self.model_mut();
        model.reap();
        if !agrees {
            model.watch.broken(Violation::LedgerDiffers);
        }
        if filling && !model.watch.staged.is_empty() {
            model.watch.broken(Violation::Leak);
        }
    }

    /// Every frame is touched once: in the end each gives what was written, or was told lost.
    pub(crate) fn sweep(&mut self) {
        for (gpa, _) in self.addresses() {
            if !self.model().guest.cell(gpa).told {
                self.model_mut().touch(gpa, Touch::Load);
                self.settle();
            }
        }
        for (gpa, told) in self.addresses() {
            let model = self.model_mut();
            let reads = model.guest.load(&model.physical, gpa).is_some();
            if !told && !reads {
                model.watch.broken(Violation::LossNotTold { gpa });
            }
            if told && reads && model.guest.cell(gpa).truth == Truth::Gone {
                model.watch.broken(Violation::LossNotTold { gpa });
            }
        }
    }

    /// The VMM resets the guest: its threads stand still, and devices are done.
    pub(crate) fn reset(&mut self) -> Reset {
        let model = self.model_mut();
        (model.watch.resetting, model.paused) = (true, true);
        let reset = self.mender.reset();
        let (model, ledger) = (self.model(), self.mender.ledger());
        let agrees = model.watch.agrees_with(&model.guest, ledger);
        let model = self.model_mut();
        (model.watch.resetting, model.paused) = (false, false);
        if !agrees {
            model.watch.broken(Violation::LedgerDiffers);
        }
        model.watch.check(&model.guest, &model.physical);
        model.check_renewed();
        reset
    }

    /// Heals everything that can be.
    pub(crate) fn heal(&mut self) -> Healed {
        let end = self.gpa(self.model().guest.frames() - 1);
        let all = GpaRange::new(Gpa::new(0), end.get() + FRAME_SIZE);
        let healed = self.mender.heal(all.expect("guests are low"));
        self.check_heal();
        healed
    }

    /// Heals what the policy says is to be healed by now.
    pub(crate) fn heal_due(&mut self) -> bool {
        let healed = self.mender.heal_due();
        self.check_heal();
        healed
    }

    fn check_heal(&mut self) {
        let (model, ledger) = (self.model(), self.mender.ledger());
        let agrees = model.watch.agrees_with(&model.guest, ledger);
        let model = self.model_mut();
        if !agrees {
            model.watch.broken(Violation::LedgerDiffers);
        }
        model.watch.check(&model.guest, &model.physical);
    }

    /// The guest acknowledges that a frame is lost.
    pub(crate) fn acknowledge(&mut self, frame: u64) {
        let gpa = self.gpa(frame);
        self.mender.acknowledged(gpa);
    }

    fn addresses(&self) -> Vec<(Gpa, bool)> {
        let guest = &self.model().guest;
        guest.all().map(|(gpa, cell)| (gpa, cell.told)).collect()
    }

    pub(crate) fn events(&self) -> &[Event] {
        &self.model().watch.events
    }

    /// How often a loss was told.
    pub(crate) fn records(&self) -> usize {
        let record = |event: &&Event| matches!(event.step, Step::Record { .. });
        self.events().iter().filter(record).count()
    }

    pub(crate) fn lost_frames(&self) -> u64 {
        self.mender.ledger().len()
    }

    /// What was done about each fault, in order.
    pub(crate) fn actions(&self) -> Vec<Option<Action>> {
        let done = self.events().iter().filter_map(|event| match event.step {
            Step::Done { action, .. } => Some(action),
            _ => None,
        });
        done.collect()
    }

    /// Why each step that failed did.
    pub(crate) fn failures(&self) -> Vec<String> {
        let failed = self.events().iter().filter_map(|event| match &event.step {
            Step::Fail { reason } => Some(reason.to_string()),
            _ => None,
        });
        failed.collect()
    }

    /// Everything that is wrong, one to a line; empty if nothing is.
    pub(crate) fn complaints(&self) -> String {
        let mut text = String::new();
        for violation in self.model().watch.violations.iter().take(5) {
            writeln!(text, "{violation}").expect("strings can be written to");
        }
        text
    }

    /// In the end nothing is wrong, and exactly these frames are lost.
    #[track_caller]
    pub(crate) fn assert_lost(&mut self, frames: &[u64]) {
        self.sweep();
        assert_eq!(self.complaints(), "");
        let lost: Vec<Gpa> = self.mender.ledger().iter().collect();
        let expected: Vec<Gpa> = frames.iter().map(|frame| self.gpa(*frame)).collect();
        assert_eq!(lost, expected);
    }
}

fn region(number: u32, ram: &Ram) -> Region {
    let start = u64::from(number) << 32;
    Region {
        name: format!("ram{number}"),
        gpa: GpaRange::new(Gpa::new(start), ram.pages * ram.page_size.bytes()).expect("low"),
        hva: Hva::new((1 << 40) + start),
        page_size: ram.page_size,
        backing: ram.backing,
        source: (ram.backing != Backing::Anonymous).then_some(Source {
            file: FileId(number),
            offset: 0,
        }),
        policy: ram.policy,
        filling: ram.filling,
        heal: ram.heal,
        consumers: ram.consumers.clone(),
    }
}
