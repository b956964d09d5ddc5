//! The tests can fail: hosts that break their contract on purpose, and the invariant that each
//! has to be caught at.

use pagemend_core::address::{FRAME_SIZE, Gpa, GpaRange, PageSize};
use pagemend_core::event::{Event, Step};
use pagemend_core::fault::{Condition, Fault};
use pagemend_core::host::{Host, Salvaged, Swapped, Target};
use pagemend_core::ledger::Cause;
use pagemend_core::map::{Backing, Segment};
use pagemend_core::plan::Capabilities;
use pagemend_core::policy::{Consumer, Heal, Policy};
use pagemend_core::time::Timestamp;

use crate::model::others::Touch;
use crate::model::violation::Violation;
use crate::model::vm::{Modelled, Ram, Vm};
use crate::model::{ModelError, ModelHost, ModelStage};

/// What the host does wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Trick {
    SkipsPoison,
    PoisonsTheNeighbour,
    LeavesZeroes,
    SwapsBeforeFilling,
    SwapsAndFails,
    DoesNotWaitForDevices,
    NeverReleases,
    KeepsTheStage,
    TellsTheNeighbour,
    TellsTwice,
    HidesFailures,
    RenewsNothing,
    CoversWithZeroes,
    NeverUncovers,
    ForgetsBytesAtAReset,
    HealsAtOnce,
}

/// The model, but for one trick.
struct Saboteur {
    model: ModelHost,
    trick: Trick,
}

impl Modelled for Saboteur {
    fn model(&self) -> &ModelHost {
        &self.model
    }
    fn model_mut(&mut self) -> &mut ModelHost {
        &mut self.model
    }
}

fn next(range: GpaRange) -> GpaRange {
    let start = Gpa::new(range.start().get() + FRAME_SIZE);
    GpaRange::new(start, range.len()).expect("guests of the model are small")
}

impl Host for Saboteur {
    type Stage = ModelStage;
    type Error = ModelError;

    fn now(&self) -> Timestamp {
        self.model.now()
    }

    fn capabilities(&self) -> Capabilities {
        self.model.capabilities()
    }

    fn examine(&mut self, fault: &Fault, gpa: Gpa) -> Condition {
        self.model.examine(fault, gpa)
    }

    fn has_failed(&mut self, segment: &Segment, gpa: Gpa) -> bool {
        self.model.has_failed(segment, gpa)
    }

    fn claim(&mut self, page: GpaRange) -> Result<(), ModelError> {
        if self.trick != Trick::DoesNotWaitForDevices {
            return self.model.claim(page);
        }
        let leases = std::mem::take(&mut self.model.others.leases);
        let claimed = self.model.claim(page);
        self.model.others.leases = leases;
        claimed
    }

    fn release(&mut self, page: GpaRange) {
        if self.trick != Trick::NeverReleases {
            self.model.release(page);
        }
    }

    fn cover(&mut self, target: &Target) -> Result<(), ModelError> {
        self.model.cover(target)?;
        if self.trick == Trick::CoversWithZeroes {
            for gpa in target.page.frames() {
                let place = self.model.guest.cell(gpa).place;
                self.model.physical.frame_mut(place).marked = false;
            }
        }
        Ok(())
    }

    fn stage(&mut self, target: &Target) -> Result<ModelStage, ModelError> {
        let stage = self.model.stage(target)?;
        if self.trick == Trick::SwapsBeforeFilling {
            self.model.guest.show(stage.page, stage.object);
        }
        Ok(stage)
    }

    fn salvage(
        &mut self,
        stage: &mut ModelStage,
        offset: u64,
        len: u64,
    ) -> Result<Salvaged, ModelError> {
        match self.trick {
            Trick::LeavesZeroes => Ok(Salvaged::Bytes(len)),
            Trick::ForgetsBytesAtAReset if self.model.watch.resetting => Ok(Salvaged::Bytes(len)),
            _ => self.model.salvage(stage, offset, len),
        }
    }

    fn poison(&mut self, stage: &mut ModelStage, lost: &[GpaRange]) -> Result<(), ModelError> {
        match self.trick {
            Trick::SkipsPoison => Ok(()),
            Trick::PoisonsTheNeighbour => {
                let lost: Vec<GpaRange> = lost.iter().copied().map(next).collect();
                self.model.poison(stage, &lost)
            }
            _ => self.model.poison(stage, lost),
        }
    }

    fn swap(&mut self, stage: ModelStage) -> Result<Swapped, ModelError> {
        match self.trick {
            Trick::SwapsAndFails => {
                self.model.guest.show(stage.page, stage.object);
                Err(ModelError::StageFailed)
            }
            Trick::KeepsTheStage => {
                std::mem::forget(stage);
                Err(ModelError::StageFailed)
            }
            Trick::HidesFailures => Err(ModelError::StageFailed),
            Trick::NeverUncovers => {
                let segments = (self.model.physical.object(stage.object)).segments(stage.page, 0);
                drop(stage);
                let reasons = vec![];
                Ok(Swapped { segments, reasons })
            }
            _ => self.model.swap(stage),
        }
    }

    fn heal(&mut self, target: &Target) -> Result<ModelStage, ModelError> {
        let stage = self.model.heal(target)?;
        if self.trick == Trick::HealsAtOnce {
            for gpa in target.marked.iter().flat_map(GpaRange::frames) {
                let place = self.model.guest.cell(gpa).place;
                self.model.physical.frame_mut(place).marked = false;
                self.model.touch(gpa, Touch::Load);
            }
        }
        Ok(stage)
    }

    fn renew(&mut self, frame: &Target) -> Result<(), ModelError> {
        match self.trick {
            Trick::RenewsNothing => Ok(()),
            _ => self.model.renew(frame),
        }
    }

    fn retire(&mut self, segments: &[Segment]) {
        self.model.retire(segments);
    }

    fn isolate(&mut self, frame: &Target) -> Result<(), ModelError> {
        self.model.isolate(frame)
    }

    fn publish(&mut self, event: &Event) {
        let mut event = event.clone();
        match (self.trick, &mut event.step) {
            (Trick::HidesFailures, Step::Fail { .. }) => return,
            (Trick::TellsTwice, Step::Record { .. }) => self.model.publish(&event),
            (Trick::TellsTheNeighbour, Step::Record { lost, .. }) => {
                *lost = lost.iter().copied().map(next).collect();
            }
            _ => {}
        }
        self.model.publish(&event);
    }
}

/// What the checker says of a page that is mended, or discarded, on a host with this trick.
fn caught(trick: Trick, policy: Policy) -> Vec<Violation> {
    let ram = Ram {
        policy,
        ..Ram::hugetlb(PageSize::SIZE_2M)
    };
    let mut vm = Vm::on(&[ram], |model| Saboteur { model, trick });
    let (leased, struck) = (vm.gpa(600), vm.gpa(700));
    vm.model_mut().lease(leased, false);
    vm.model_mut().strike(struck);
    vm.load(701);
    // The device is done at last.
    for lease in std::mem::take(&mut vm.model_mut().others.leases) {
        vm.model_mut().write_leased(&lease);
    }
    vm.sweep();
    vm.model().watch.violations.clone()
}

/// The first thing that is noticed.
fn first_caught(trick: Trick) -> Violation {
    let violations = caught(trick, Policy::Mend);
    violations.into_iter().next().expect("the trick is noticed")
}

/// Whether it is the lost frame that reads as zero.
fn is_zero_at_700(violation: &Violation) -> bool {
    matches!(violation, Violation::SilentCorruption { gpa, read: 0, .. } if gpa.get() == 700 * FRAME_SIZE)
}

#[test]
fn a_lost_frame_that_is_not_poisoned_is_caught_as_corruption() {
    assert!(is_zero_at_700(&first_caught(Trick::SkipsPoison)));
}

#[test]
fn a_poisoned_neighbour_is_caught_as_corruption_and_as_a_loss_that_nobody_heard_of() {
    let caught = caught(Trick::PoisonsTheNeighbour, Policy::Mend);
    assert!(is_zero_at_700(&caught[0]));
    let gpa = Gpa::new(701 * FRAME_SIZE);
    assert!(caught.contains(&Violation::LossNotTold { gpa }));
}

#[test]
fn bytes_that_were_not_read_are_caught_as_corruption() {
    let first = first_caught(Trick::LeavesZeroes);
    assert!(matches!(first, Violation::SilentCorruption { read: 0, .. }));
}

#[test]
fn memory_that_is_shown_before_it_is_filled_is_caught_as_half_done() {
    let caught = caught(Trick::SwapsBeforeFilling, Policy::Mend);
    assert!(matches!(
        caught[0],
        Violation::SilentCorruption { read: 0, .. }
    ));
    assert!(
        caught
            .iter()
            .any(|one| matches!(one, Violation::HalfDone { .. }))
    );
}

#[test]
fn discarded_memory_that_is_shown_before_it_is_told_lost_is_caught_as_corruption() {
    let caught = caught(Trick::SwapsBeforeFilling, Policy::Discard);
    assert!(matches!(
        caught[0],
        Violation::SilentCorruption { read: 0, .. }
    ));
}

#[test]
fn a_swap_that_fails_and_changes_the_page_is_caught_as_half_done() {
    let first = first_caught(Trick::SwapsAndFails);
    assert!(matches!(
        first,
        Violation::SilentCorruption { read: 0, .. } | Violation::HalfDone { .. }
    ));
    let caught = caught(Trick::SwapsAndFails, Policy::Mend);
    assert!(
        caught
            .iter()
            .any(|one| matches!(one, Violation::HalfDone { .. }))
    );
}

#[test]
fn a_device_that_writes_after_the_swap_is_caught_as_corruption() {
    let first = first_caught(Trick::DoesNotWaitForDevices);
    let gpa = Gpa::new(600 * FRAME_SIZE);
    assert!(matches!(first, Violation::SilentCorruption { gpa: at, .. } if at == gpa));
}

#[test]
fn a_page_that_is_never_released_is_caught() {
    let what = "a page stays claimed";
    assert_eq!(
        first_caught(Trick::NeverReleases),
        Violation::OutOfOrder { what }
    );
}

#[test]
fn staged_memory_that_nobody_gives_back_is_caught() {
    let caught = caught(Trick::KeepsTheStage, Policy::Mend);
    assert!(caught.contains(&Violation::Leak));
}

#[test]
fn the_wrong_frame_told_lost_is_caught() {
    let gpa = Gpa::new(701 * FRAME_SIZE);
    assert_eq!(
        first_caught(Trick::TellsTheNeighbour),
        Violation::HealthyByteLost { gpa }
    );
}

#[test]
fn a_loss_told_twice_is_caught() {
    let gpa = Gpa::new(700 * FRAME_SIZE);
    assert_eq!(
        first_caught(Trick::TellsTwice),
        Violation::ToldWrongly { gpa }
    );
}

#[test]
fn a_failure_that_nobody_hears_of_is_caught() {
    let caught = caught(Trick::HidesFailures, Policy::Mend);
    assert!(
        caught
            .iter()
            .any(|one| matches!(one, Violation::FailureHidden { .. }))
    );
}

/// What the checker says of a page of two stretches that is mended on demand.
fn caught_on_demand(trick: Trick) -> Vec<Violation> {
    let ram = Ram::hugetlb(PageSize::from_bytes(4 << 20).expect("2^22"));
    let mut vm = Vm::on(&[ram], |model| Saboteur { model, trick });
    let struck = vm.gpa(700);
    vm.model_mut().strike(struck);
    vm.model_mut().report(struck, Cause::ActionOptional, None);
    vm.settle();
    vm.model().watch.violations.clone()
}

#[test]
fn a_cover_that_reads_zero_is_caught_as_corruption() {
    let caught = caught_on_demand(Trick::CoversWithZeroes);
    assert!(matches!(
        caught[0],
        Violation::SilentCorruption { read: 0, .. }
    ));
}

#[test]
fn a_page_that_is_called_complete_and_still_faults_is_caught() {
    let caught = caught_on_demand(Trick::NeverUncovers);
    assert!(
        caught
            .iter()
            .any(|one| matches!(one, Violation::HealthyByteLost { .. })),
        "{caught:?}"
    );
}

/// What the checker says of a reset after one error, on a host with this trick.
fn caught_at_a_reset(trick: Trick, ram: Ram) -> Vec<Violation> {
    let mut vm = Vm::on(&[ram], |model| Saboteur { model, trick });
    let struck = vm.gpa(700);
    vm.model_mut().strike(struck);
    vm.load(700);
    vm.reset();
    vm.sweep();
    vm.model().watch.violations.clone()
}

#[test]
fn a_reset_that_loses_healthy_bytes_is_caught_as_corruption() {
    let caught = caught_at_a_reset(Trick::ForgetsBytesAtAReset, Ram::hugetlb(PageSize::SIZE_2M));
    assert!(matches!(
        caught[0],
        Violation::SilentCorruption { read: 0, .. }
    ));
}

#[test]
fn a_frame_that_still_faults_after_a_reset_is_caught() {
    let ram = Ram {
        backing: Backing::Shmem,
        pages: 1024,
        ..Ram::hugetlb(PageSize::SIZE_4K)
    };
    let gpa = Gpa::new(700 * FRAME_SIZE);
    let caught = caught_at_a_reset(Trick::RenewsNothing, ram);
    assert!(
        caught.contains(&Violation::NotRenewed { gpa }),
        "{caught:?}"
    );
}

#[test]
fn a_lost_frame_that_can_be_read_before_that_was_told_is_caught_as_corruption() {
    let trick = Trick::HealsAtOnce;
    let ram = Ram {
        heal: Heal::Now,
        ..Ram::hugetlb(PageSize::SIZE_2M)
    };
    let mut vm = Vm::on(&[ram], |model| Saboteur { model, trick });
    let struck = vm.gpa(700);
    vm.model_mut().strike(struck);
    vm.load(700);
    vm.heal_due();
    assert!(matches!(
        vm.model().watch.violations[0],
        Violation::SilentCorruption { gpa, .. } if gpa == struck
    ));
}

#[test]
fn a_consumer_that_nobody_declared_is_caught_with_its_second_view() {
    let mut vm = Vm::new(&[Ram::hugetlb(PageSize::SIZE_2M)]);
    vm.model_mut().guest.attach(Consumer {
        name: "gpu".into(),
        follows: false,
    });
    vm.strike(700);
    vm.load(701);
    assert!(matches!(
        vm.model().watch.violations[..],
        [Violation::TwoViews { .. }]
    ));
}
