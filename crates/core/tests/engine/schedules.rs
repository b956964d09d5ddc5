//! Seeded schedules: threads, devices, errors, reports and failing calls, all at once.
//!
//! `PAGEMEND_CASES` sets how many seeds are tried, `PAGEMEND_SEED` replays one.

use std::env;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use oorandom::Rand32;
use pagemend_core::address::PageSize;
use pagemend_core::fault::Evidence;
use pagemend_core::map::Backing;
use pagemend_core::policy::{Consumer, Filling, Heal, Policy};

use crate::model::ModelHost;
use crate::model::others::{Budget, chance};
use crate::model::vm::{Ram, Vm};

/// Tried in every run of the tests.
const CASES: u64 = 3000;

fn pick<T: Copy>(random: &mut Rand32, choices: &[T]) -> T {
    let end = u32::try_from(choices.len()).expect("few choices");
    choices[random.rand_range(0..end) as usize]
}

/// Mostly the 64 KiB hugetlb pages of arm64, because they make the same mistakes possible as
/// larger ones at a thirty-second of the cost; 4 and 8 MiB pages become stretches of 2 MiB.
fn page_size(random: &mut Rand32, backing: Backing) -> PageSize {
    let shift = match (backing, random.rand_range(0..200)) {
        (Backing::Shmem | Backing::Anonymous, 0..100) => 12,
        (_, 0..190) => 16,
        (_, 190..193) => 21,
        (_, 193..197) => 22,
        _ => 23,
    };
    PageSize::from_bytes(1 << shift).expect("all are page sizes")
}

fn ram(random: &mut Rand32) -> Ram {
    use Backing::{Anonymous, Hugetlb, HugetlbPrivate, Shmem};
    let backing = pick(
        random,
        &[
            Hugetlb,
            Hugetlb,
            Hugetlb,
            Hugetlb,
            HugetlbPrivate,
            Shmem,
            Anonymous,
        ],
    );
    let page_size = page_size(random, backing);
    let consumers = match random.rand_range(0..20) {
        0 => vec![false],
        1 => vec![true, false],
        2..6 => vec![true],
        _ => vec![],
    };
    let named = |follows| Consumer {
        name: "vhost".into(),
        follows,
    };
    Ram {
        backing,
        filling: pick(
            random,
            &[Filling::OnDemand, Filling::OnDemand, Filling::Eager],
        ),
        heal: pick(
            random,
            &[
                Heal::Never,
                Heal::Now,
                Heal::OnAck {
                    after: Duration::from_nanos(30),
                },
            ],
        ),
        page_size,
        pages: match page_size.shift() {
            12 => 16,
            16 => u64::from(random.rand_range(2..6)),
            _ => 1,
        },
        policy: pick(
            random,
            &[
                Policy::Mend,
                Policy::Mend,
                Policy::Mend,
                Policy::Keep,
                Policy::Discard,
                Policy::Abandon,
            ],
        ),
        consumers: consumers.into_iter().map(named).collect(),
    }
}

/// A machine that this seed makes, before anything happened.
fn machine(seed: u64) -> Vm<ModelHost> {
    let mut random = Rand32::new(seed);
    let regions = random.rand_range(1..3);
    let ram: Vec<Ram> = (0..regions).map(|_| ram(&mut random)).collect();
    let mut vm = Vm::new(&ram);
    if chance(&mut random, 30) {
        vm.allow_keep();
    }
    let model = vm.model_mut();
    model.capabilities.salvage = chance(&mut random, 97);
    model.capabilities.poison = chance(&mut random, 97);
    model.thp = chance(&mut random, 50);
    for size in [1 << 16, 1 << 21] {
        let size = PageSize::from_bytes(size).expect("all are page sizes");
        model.pool.insert(size, u64::from(random.rand_range(0..20)));
    }
    model.others.evidence = pick(
        &mut random,
        &[Evidence::MemoryFailure, Evidence::AddressError],
    );
    if chance(&mut random, 4) {
        let gpa = model.guest.nth(0);
        model
            .physical
            .lose_count(model.guest.cell(gpa).place.object);
    }
    model.others.pausable = chance(&mut random, 20);
    model.others.budget = Budget {
        touches: 60,
        errors: random.rand_range(1..12),
        refused_percent: pick(&mut random, &[0, 0, 0, 2, 10]),
    };
    model.others.random = Some(random);
    vm
}

/// The guest acknowledges some of what is lost, and what can be healed by now is.
fn heal(vm: &mut Vm<ModelHost>) {
    let lost: Vec<_> = vm.mender.ledger().iter().collect();
    for gpa in lost {
        if vm.model_mut().others.happens(30) {
            vm.mender.acknowledged(gpa);
        }
    }
    if vm.model_mut().others.happens(5) {
        vm.heal();
    }
    while vm.heal_due() {
        vm.settle();
    }
}

/// Everything that a seed makes happen.
fn run(seed: u64) -> Result<(), String> {
    let mut vm = machine(seed);
    for _ in 0..20 {
        vm.model_mut().let_others_run();
        vm.settle();
        heal(&mut vm);
        if vm.model_mut().others.happens(4) {
            vm.reset();
            vm.settle();
        }
    }
    // Quiet, so that the end can be told from the middle.
    vm.model_mut().others.random = None;
    vm.sweep();
    match vm.complaints() {
        complaints if complaints.is_empty() => Ok(()),
        complaints => Err(complaints),
    }
}

fn number(name: &str) -> Option<u64> {
    let text = env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is no number: '{text}'")),
    )
}

#[test]
fn no_schedule_breaks_an_invariant() {
    let seeds = match number("PAGEMEND_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("PAGEMEND_CASES").unwrap_or(CASES),
    };
    for seed in seeds {
        let outcome = catch_unwind(AssertUnwindSafe(|| run(seed)));
        let complaints = match outcome {
            Ok(Ok(())) => continue,
            Ok(Err(complaints)) => complaints,
            Err(_) => "the engine panicked, see above\n".into(),
        };
        panic!(
            "seed {seed}:\n{complaints}replay: PAGEMEND_SEED={seed} cargo test -p pagemend-core --test engine schedules"
        );
    }
}
