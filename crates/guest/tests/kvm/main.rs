//! What a guest sees of machine checks under this machine's own KVM. In most tests no memory fails:
//! the guest is told of frames that are in order.
#![cfg(all(feature = "kvm", target_arch = "x86_64"))]
#![allow(clippy::unwrap_used, reason = "the harness fails as a test does")]

mod failing;
mod machine;
mod program;

use machine::{Machine, Report, kvm};
use pagemend_core::address::Gpa;
use pagemend_guest::deliver::{
    Answer, BANK_BYSTANDER, BANK_OPTIONAL, BANK_REQUIRED, DEFAULT_BANKS, Obstacle,
};
use pagemend_guest::kvm::{mce_cap_kept, mce_cap_supported, mcg_cap, watch};
use pagemend_guest::x86::bits::MSR_MCG_STATUS;
use pagemend_guest::x86::{AoSignal, MachineCheck, Vendor};
use program::Command;

const TOLD: Answer = Answer::Told {
    kick_others: false,
    overflow: false,
};

fn report(record: MachineCheck) -> Report {
    Report {
        mcg_status: record.mcg_status,
        records: vec![record],
    }
}

fn required(vendor: Vendor, frame: u64) -> Report {
    let gpa = Gpa::new(frame << 12);
    report(MachineCheck::action_required(
        vendor,
        BANK_REQUIRED,
        gpa,
        false,
    ))
}

fn optional(vendor: Vendor, signal: AoSignal, frame: u64) -> Report {
    let gpa = Gpa::new(frame << 12);
    report(MachineCheck::action_optional(
        vendor,
        signal,
        BANK_OPTIONAL,
        gpa,
        false,
    ))
}

#[test]
fn what_kvm_is_said_to_keep_a_vcpu_has() {
    let Some(kvm) = kvm() else { return };
    let kept = mce_cap_kept(&kvm).unwrap();
    assert_eq!(kept & !mce_cap_supported(&kvm).unwrap(), 0);
    let vendor = Vendor::Intel;
    let machine = Machine::new(&kvm, vendor, AoSignal::Exception, 1);
    let expected = mcg_cap(vendor, kept, DEFAULT_BANKS);
    assert_eq!(machine.vcpus[0].mcg_cap, expected);
}

#[test]
fn a_touch_arrives_with_the_values_of_its_vendor() {
    let Some(kvm) = kvm() else { return };
    for vendor in [Vendor::Intel, Vendor::Amd] {
        let mut machine = Machine::new(&kvm, vendor, AoSignal::Exception, 1);
        let vcpu = &mut machine.vcpus[0];
        assert_eq!(vcpu.run(&[Command::TurnOn]), []);
        assert_eq!(vcpu.touched(0x12345), TOLD);
        assert_eq!(vcpu.run(&[]), [required(vendor, 0x12345)]);
    }
}

#[test]
fn records_that_wait_are_told_one_after_another_in_exceptions() {
    let Some(kvm) = kvm() else { return };
    let mut machine = Machine::new(&kvm, Vendor::Intel, AoSignal::Exception, 1);
    machine.vcpus[0].run(&[Command::TurnOn]);
    machine.lost(0x100);
    machine.lost(0x200);
    assert_eq!(machine.checks.waiting().len(), 2);
    let reports = machine.vcpus[0].run(&[Command::Idle]);
    let told = |frame| optional(Vendor::Intel, AoSignal::Exception, frame);
    assert_eq!(reports, [told(0x100), told(0x200)]);
    assert_eq!(machine.checks.waiting(), []);
}

#[test]
fn what_is_no_exception_lies_in_its_banks_until_the_guest_polls() {
    let Some(kvm) = kvm() else { return };
    for (vendor, signal) in [
        (Vendor::Amd, AoSignal::Record),
        (Vendor::Intel, AoSignal::Interrupt),
    ] {
        let mut machine = Machine::new(&kvm, vendor, signal, 1);
        machine.vcpus[0].run(&[Command::TurnOn]);
        (1..=8).for_each(|frame| machine.lost(frame));
        assert_eq!(machine.vcpus[0].run(&[Command::Idle]), []);
        assert_eq!(machine.checks.waiting().len(), 2, "the banks hold six");
        let frames = |reports: Vec<Report>| -> Vec<u64> {
            let records = reports.iter().flat_map(|report| &report.records);
            records.map(|record| record.addr >> 12).collect()
        };
        // While it polls it leaves the guest again and again: what waits is put into the banks
        // that it has cleared and not passed, or the next time.
        let reports = machine.vcpus[0].run(&[Command::Poll, Command::Poll]);
        assert_eq!(reports[0].mcg_status, 0);
        let mut heard = frames(reports);
        heard.sort_unstable();
        assert_eq!(heard, (1..=8).collect::<Vec<_>>());
    }
}

#[test]
fn a_guest_with_machine_checks_off_is_not_told_before_it_turns_them_on() {
    let Some(kvm) = kvm() else { return };
    let mut machine = Machine::new(&kvm, Vendor::Intel, AoSignal::Exception, 1);
    machine.lost(0x100);
    let vcpu = &mut machine.vcpus[0];
    assert_eq!(vcpu.run(&[Command::Idle, Command::Idle]), []);
    assert_eq!(vcpu.before_run().obstacle, Some(Obstacle::MachineChecksOff));
    let reports = vcpu.run(&[Command::TurnOn, Command::Idle]);
    assert_eq!(
        reports,
        [optional(Vendor::Intel, AoSignal::Exception, 0x100)]
    );
}

#[test]
fn a_touch_with_machine_checks_off_is_refused_and_the_guest_lives() {
    let Some(kvm) = kvm() else { return };
    let mut machine = Machine::new(&kvm, Vendor::Amd, AoSignal::Record, 1);
    let vcpu = &mut machine.vcpus[0];
    vcpu.run(&[]);
    let refused = Answer::Refused(Obstacle::MachineChecksOff);
    assert_eq!(vcpu.touched(0x300), refused);
    assert_eq!(
        vcpu.run(&[Command::TurnOn]),
        [],
        "it runs, and was told nothing"
    );
    assert_eq!(vcpu.touched(0x300), TOLD);
    // Its handler has not begun, and KVM has the exception queued: one more would be fatal.
    assert_eq!(vcpu.touched(0x301), Answer::Refused(Obstacle::InProgress));
    assert_eq!(vcpu.run(&[]), [required(Vendor::Amd, 0x300)]);
    assert_eq!(vcpu.touched(0x301), TOLD);
    assert_eq!(vcpu.run(&[]), [required(Vendor::Amd, 0x301)]);
}

#[test]
fn a_guest_takes_128_of_each_kind() {
    let Some(kvm) = kvm() else { return };
    let mut machine = Machine::new(&kvm, Vendor::Intel, AoSignal::Exception, 1);
    watch(&machine.vm, machine.checks.config()).expect("KVM filters these registers");
    machine.vcpus[0].run(&[Command::TurnOn]);
    (0..128).for_each(|frame| machine.lost(frame));
    let told = |frame| optional(Vendor::Intel, AoSignal::Exception, frame);
    let reports = machine.vcpus[0].run(&[]);
    assert_eq!(reports, (0..128).map(told).collect::<Vec<_>>());
    for frame in 0..128 {
        assert_eq!(machine.vcpus[0].touched(frame), TOLD);
        assert_eq!(machine.vcpus[0].run(&[]), [required(Vendor::Intel, frame)]);
    }
    let counts = machine.checks.counts();
    assert_eq!((counts.optional, counts.required), (128, 128));
}

#[test]
fn both_vcpus_take_part_in_what_is_not_local() {
    let Some(kvm) = kvm() else { return };
    let mut machine = Machine::new(&kvm, Vendor::Intel, AoSignal::Exception, 2);
    for vcpu in &mut machine.vcpus {
        vcpu.run(&[Command::TurnOn]);
    }
    let kicking = Answer::Told {
        kick_others: true,
        overflow: false,
    };
    assert_eq!(machine.vcpus[0].touched(0x400), kicking);
    let bystander = report(MachineCheck::bystander(BANK_BYSTANDER));
    assert_eq!(machine.vcpus[1].run(&[]), [bystander]);
    assert_eq!(machine.vcpus[0].run(&[]), [required(Vendor::Intel, 0x400)]);
    assert_eq!(machine.vcpus[1].run(&[]), [], "once is enough");
}

#[test]
fn the_end_of_a_machine_check_is_an_exit() {
    let Some(kvm) = kvm() else { return };
    let mut machine = Machine::new(&kvm, Vendor::Intel, AoSignal::Exception, 1);
    watch(&machine.vm, machine.checks.config()).expect("KVM filters these registers");
    machine.vcpus[0].run(&[Command::TurnOn]);
    machine.lost(0x100);
    machine.lost(0x200);
    let told = |frame| optional(Vendor::Intel, AoSignal::Exception, frame);
    assert_eq!(machine.vcpus[0].run(&[]), [told(0x100), told(0x200)]);
    let accesses = machine.vcpus[0].accesses.split_off(0);
    let ends = accesses
        .iter()
        .filter(|access| **access == (MSR_MCG_STATUS, true));
    assert_eq!(ends.count(), 2);
}

#[test]
fn a_record_that_the_guest_clears_unread_is_told_again() {
    let Some(kvm) = kvm() else { return };
    let mut machine = Machine::new(&kvm, Vendor::Amd, AoSignal::Record, 1);
    watch(&machine.vm, machine.checks.config()).expect("KVM filters these registers");
    machine.vcpus[0].run(&[Command::TurnOn]);
    machine.lost(0x100);
    let reports = machine.vcpus[0].run(&[Command::Idle, Command::Clear, Command::Poll]);
    let records = &reports[0].records;
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].addr, 0x100_000);
    assert_eq!(machine.checks.counts().repeated, 1);
    assert_eq!(machine.vcpus[0].run(&[Command::Poll])[0].records, []);
}
