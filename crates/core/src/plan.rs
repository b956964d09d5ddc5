//! What to do about a poisoned page: a pure function of what is wanted and what is possible.
//!
//! Eligibility is computed, never assumed. Every step down from what was wanted carries its
//! reason, and all reasons are given, not only the first, so that an operator can put them right
//! in one go.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::address::PageSize;
use crate::map::{Backing, Segment};
use crate::policy::{Consumer, Policy};

/// What the host can do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Capabilities {
    /// Reading the healthy bytes of a poisoned hugetlb page through its file (Linux 6.6).
    pub salvage: bool,
    /// Marking single frames so that every touch faults (`UFFDIO_POISON`, Linux 6.6).
    pub poison: bool,
    /// Keeping a poisoned page mapped (`MFD_MF_KEEP_UE_MAPPED`, in no mainline kernel up to 7.2).
    pub keep: bool,
}

/// What is done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// The kernel took no more than the frame: record it and tell.
    Record,
    /// The kernel left the page mapped: record the frame and tell.
    Keep,
    /// Salvage, swap in new memory, mark the lost frames.
    Mend,
    /// Tell the whole page lost, then swap in zeroed memory.
    Discard,
    /// Tell the whole page lost and leave it poisoned.
    Abandon,
}

/// Why less was done than was wanted.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Reason {
    /// The kernel cannot keep poisoned pages of this memory mapped.
    KeepUnavailable,
    /// Private and anonymous hugetlb memory has no file through which it could be read.
    NoFileView,
    /// The kernel cannot read the healthy bytes of a poisoned page.
    SalvageUnavailable,
    /// The kernel cannot mark a single frame as lost.
    PoisonUnavailable,
    /// Someone else maps the page and would go on with the old memory.
    ConsumerCannotFollow {
        /// Who.
        name: String,
    },
    /// Not one frame of the page could be read.
    NothingSalvaged,
    /// A step failed on the host.
    StepFailed {
        /// The step.
        step: String,
        /// What the host said.
        error: String,
    },
    /// A stretch got smaller pages than fit it.
    SmallerPages {
        /// The page size that fits.
        wanted: PageSize,
        /// The page size it got.
        got: PageSize,
        /// Bytes concerned.
        bytes: u64,
        /// Why the larger ones were not to be had.
        why: String,
    },
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KeepUnavailable => f.write_str(
                "the kernel cannot keep the page mapped: it takes MFD_MF_KEEP_UE_MAPPED and shared hugetlb memory",
            ),
            Self::NoFileView => f.write_str(
                "private and anonymous hugetlb memory cannot be read once poisoned: use a shared memfd",
            ),
            Self::SalvageUnavailable => {
                f.write_str("the kernel cannot read poisoned hugetlb pages: Linux 6.6 or newer can")
            }
            Self::PoisonUnavailable => {
                f.write_str("userfaultfd cannot mark lost frames: Linux 6.6 or newer can, if allowed")
            }
            Self::ConsumerCannotFollow { name } => {
                write!(f, "'{name}' maps the memory and cannot follow a swap")
            }
            Self::NothingSalvaged => f.write_str("no frame of the page can be read"),
            Self::StepFailed { step, error } => write!(f, "{step} failed: {error}"),
            Self::SmallerPages {
                wanted,
                got,
                bytes,
                why,
            } => write!(f, "{bytes} bytes got {got} instead of {wanted} pages: {why}"),
        }
    }
}

/// All that a plan depends on.
#[derive(Clone, Copy, Debug)]
pub struct Case<'a> {
    /// The piece of memory that was hit, as it is now.
    pub segment: &'a Segment,
    /// What is wanted there.
    pub policy: Policy,
    /// Who else maps it.
    pub consumers: &'a [Consumer],
    /// What the host can do.
    pub capabilities: Capabilities,
}

/// What will be done, and why not more.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    /// What will be done.
    pub action: Action,
    /// Why it is less than was wanted; empty where it is not.
    pub reasons: Vec<Reason>,
}

impl Plan {
    fn of(action: Action) -> Self {
        Self {
            action,
            reasons: vec![],
        }
    }

    /// Abandons for `reasons`, or does as wanted where there are none.
    fn unless(reasons: Vec<Reason>, wanted: Action) -> Self {
        let action = if reasons.is_empty() {
            wanted
        } else {
            Action::Abandon
        };
        Self { action, reasons }
    }
}

/// Decides what to do about a poisoned page.
pub fn plan(case: &Case<'_>) -> Plan {
    let unit = case.segment.backing.unit_of_loss(case.segment.page_size);
    match case.policy {
        Policy::Discard => Plan::unless(cannot_follow(case.consumers).collect(), Action::Discard),
        // Nothing else than the lost frame is gone, so there is nothing to bring back, and
        // nothing to keep.
        _ if !unit.is_huge() => Plan::of(Action::Record),
        Policy::Abandon => Plan::of(Action::Abandon),
        Policy::Keep if can_keep(case) => Plan::of(Action::Keep),
        Policy::Keep => {
            let mut plan = Plan::unless(cannot_mend(case), Action::Mend);
            plan.reasons.insert(0, Reason::KeepUnavailable);
            plan
        }
        Policy::Mend => Plan::unless(cannot_mend(case), Action::Mend),
    }
}

/// The kernel keeps pages of a memfd made for it; the private pages of a mapping are not such.
fn can_keep(case: &Case<'_>) -> bool {
    case.capabilities.keep && case.segment.backing == Backing::Hugetlb
}

fn cannot_mend(case: &Case<'_>) -> Vec<Reason> {
    let Capabilities {
        salvage, poison, ..
    } = case.capabilities;
    let private = case.segment.backing == Backing::HugetlbPrivate;
    [
        (private, Reason::NoFileView),
        (!salvage, Reason::SalvageUnavailable),
        (!poison, Reason::PoisonUnavailable),
    ]
    .into_iter()
    .filter_map(|(holds, reason)| holds.then_some(reason))
    .chain(cannot_follow(case.consumers))
    .collect()
}

/// Why memory under `consumers` must not be swapped, one reason for each.
pub(crate) fn cannot_follow(consumers: &[Consumer]) -> impl Iterator<Item = Reason> {
    let stuck = consumers.iter().filter(|consumer| !consumer.follows);
    stuck.map(|consumer| Reason::ConsumerCannotFollow {
        name: consumer.name.clone(),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::address::{Gpa, GpaRange};

    const ABLE: Capabilities = Capabilities {
        salvage: true,
        poison: true,
        keep: false,
    };

    fn segment(backing: Backing) -> Segment {
        Segment {
            gpa: GpaRange::new(Gpa::new(0), 1 << 30).unwrap(),
            page_size: PageSize::SIZE_2M,
            backing,
            source: None,
        }
    }

    fn planned(
        backing: Backing,
        policy: Policy,
        consumers: &[Consumer],
        able: Capabilities,
    ) -> Plan {
        plan(&Case {
            segment: &segment(backing),
            policy,
            consumers,
            capabilities: able,
        })
    }

    fn stuck() -> Consumer {
        Consumer {
            name: "gpu".into(),
            follows: false,
        }
    }

    #[test]
    fn a_shared_huge_page_is_mended() {
        let plan = planned(Backing::Hugetlb, Policy::Mend, &[], ABLE);
        assert_eq!(plan, Plan::of(Action::Mend));
    }

    #[test]
    fn a_consumer_that_cannot_follow_makes_the_page_ineligible() {
        for policy in [Policy::Mend, Policy::Discard] {
            let plan = planned(Backing::Hugetlb, policy, &[stuck()], ABLE);
            assert_eq!(plan.action, Action::Abandon);
            assert_eq!(
                plan.reasons,
                [Reason::ConsumerCannotFollow { name: "gpu".into() }]
            );
        }
        let follower = Consumer {
            follows: true,
            ..stuck()
        };
        assert_eq!(
            planned(Backing::Hugetlb, Policy::Mend, &[follower], ABLE).action,
            Action::Mend
        );
    }

    #[test]
    fn every_reason_is_given_not_only_the_first() {
        let unable = Capabilities {
            salvage: false,
            poison: false,
            keep: false,
        };
        let plan = planned(Backing::HugetlbPrivate, Policy::Keep, &[stuck()], unable);
        assert_eq!(plan.action, Action::Abandon);
        assert_eq!(plan.reasons.len(), 5);
        assert_eq!(plan.reasons[0], Reason::KeepUnavailable);
    }

    #[test]
    fn keep_without_the_kernels_help_becomes_a_mend_and_says_so() {
        let plan = planned(Backing::Hugetlb, Policy::Keep, &[], ABLE);
        assert_eq!(plan.action, Action::Mend);
        assert_eq!(plan.reasons, [Reason::KeepUnavailable]);
        let able = Capabilities { keep: true, ..ABLE };
        assert_eq!(
            planned(Backing::Hugetlb, Policy::Keep, &[], able),
            Plan::of(Action::Keep)
        );
    }

    #[test]
    fn private_hugetlb_is_never_planned_to_be_kept() {
        let able = Capabilities { keep: true, ..ABLE };
        let plan = planned(Backing::HugetlbPrivate, Policy::Keep, &[], able);
        assert_eq!(plan.action, Action::Abandon);
        assert_eq!(plan.reasons, [Reason::KeepUnavailable, Reason::NoFileView]);
    }

    #[test]
    fn where_the_kernel_takes_only_the_frame_there_is_nothing_to_swap() {
        for backing in [Backing::Shmem, Backing::Anonymous] {
            for policy in [Policy::Mend, Policy::Keep, Policy::Abandon] {
                assert_eq!(
                    planned(backing, policy, &[stuck()], ABLE),
                    Plan::of(Action::Record)
                );
            }
        }
    }

    fn cases() -> impl Strategy<Value = (Backing, Policy, Vec<Consumer>, Capabilities)> {
        let backing = prop::sample::select(vec![
            Backing::Hugetlb,
            Backing::HugetlbPrivate,
            Backing::Shmem,
            Backing::Anonymous,
        ]);
        let policy = prop::sample::select(Policy::ALL.to_vec());
        let consumers = prop::collection::vec(
            any::<bool>().prop_map(|follows| Consumer {
                name: "c".into(),
                follows,
            }),
            0..3,
        );
        let able = any::<(bool, bool, bool)>().prop_map(|(salvage, poison, keep)| Capabilities {
            salvage,
            poison,
            keep,
        });
        (backing, policy, consumers, able)
    }

    proptest! {
        #[test]
        fn no_memory_is_swapped_under_a_consumer_that_cannot_follow((backing, policy, consumers, able) in cases()) {
            let plan = planned(backing, policy, &consumers, able);
            if consumers.iter().any(|consumer| !consumer.follows) {
                prop_assert!(!matches!(plan.action, Action::Mend | Action::Discard));
            }
        }

        #[test]
        fn doing_less_than_wanted_always_has_a_reason((backing, policy, consumers, able) in cases()) {
            let plan = planned(backing, policy, &consumers, able);
            let as_wanted = match policy {
                Policy::Mend => matches!(plan.action, Action::Mend | Action::Record),
                Policy::Keep => matches!(plan.action, Action::Keep | Action::Record),
                Policy::Discard => plan.action == Action::Discard,
                Policy::Abandon => matches!(plan.action, Action::Abandon | Action::Record),
            };
            prop_assert_eq!(as_wanted, plan.reasons.is_empty());
        }

        #[test]
        fn a_mend_is_planned_only_where_the_host_can_carry_it_out((backing, policy, consumers, able) in cases()) {
            if planned(backing, policy, &consumers, able).action == Action::Mend {
                prop_assert!(able.salvage && able.poison && backing == Backing::Hugetlb);
            }
        }
    }
}
