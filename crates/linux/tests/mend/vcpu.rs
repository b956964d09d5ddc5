//! A vCPU's thread. Where the kernel has no memory failures to give, `KVM_RUN` gives EFAULT without
//! a signal; so the thread sends itself the signal that would have come.

use std::sync::mpsc;
use std::thread;

use pagemend_core::address::Hva;
use pagemend_linux::{MemoryKind, VcpuFault, VcpuThread};

use crate::guest::{Guest, MIB, gpa};

const LOST: u64 = 2 * MIB + 0x3000;

/// `siginfo_t` of a SIGBUS on 64-bit Linux (include/uapi/asm-generic/siginfo.h).
#[repr(C)]
struct Poison {
    signo: i32,
    errno: i32,
    code: i32,
    _pad: i32,
    address: u64,
    _rest: [u64; 13],
}

const _: () = assert!(size_of::<Poison>() == size_of::<libc::siginfo_t>());

/// What KVM_RUN does at poison on x86: EINTR, and BUS_MCEERR_AR for the calling thread.
fn run_into(address: u64) -> libc::c_int {
    signal_self(libc::BUS_MCEERR_AR, address)
}

pub(crate) fn signal_self(code: libc::c_int, address: u64) -> libc::c_int {
    let poison = Poison {
        signo: libc::SIGBUS,
        errno: 0,
        code,
        _pad: 0,
        address,
        _rest: [0; 13],
    };
    // SAFETY: the struct is what the kernel takes; a thread may send itself any code.
    let sent = unsafe {
        libc::syscall(
            libc::SYS_rt_tgsigqueueinfo,
            libc::getpid(),
            libc::gettid(),
            libc::SIGBUS,
            &raw const poison,
        )
    };
    assert_eq!(sent, 0);
    libc::EINTR
}

fn fault_at(guest: &Guest, vcpu: &mut VcpuThread, offset: u64) -> Option<VcpuFault> {
    let address = guest.memory.hva().get() + offset;
    assert_eq!(vcpu.run(|| run_into(address)), libc::EINTR);
    vcpu.take_fault()
}

#[test]
fn it_is_told_to_run_again_or_which_frame_is_lost() {
    let guest = Guest::huge(8 * MIB);
    guest.fail(LOST);
    let mut vcpu = guest.pagemend.vcpu_thread().unwrap();
    let healthy = fault_at(&guest, &mut vcpu, LOST + 0x1008);
    assert_eq!(healthy, Some(VcpuFault::Mended));
    let lost = fault_at(&guest, &mut vcpu, LOST + 8);
    assert_eq!(lost, Some(VcpuFault::Lost { gpa: gpa(LOST) }));
    assert_eq!(vcpu.take_fault(), None, "it was taken");
    assert_eq!(vcpu.run(|| 7), 7);
    assert_eq!(vcpu.take_fault(), None);
    guest.check_all_but(&[LOST]);
}

#[test]
fn a_fault_that_is_not_taken_is_kept_for_later() {
    let guest = Guest::huge(8 * MIB);
    guest.fail(LOST);
    let mut vcpu = guest.pagemend.vcpu_thread().unwrap();
    let address = guest.memory.hva().get() + LOST;
    vcpu.run(|| run_into(address));
    vcpu.run(|| 0);
    assert_eq!(vcpu.take_fault(), Some(VcpuFault::Lost { gpa: gpa(LOST) }));
}

#[test]
fn memory_that_failed_and_that_the_kernel_left_mapped_faults_from_then_on() {
    for kind in [
        MemoryKind::Shmem,
        MemoryKind::ShmemThp,
        MemoryKind::Anonymous,
        MemoryKind::AnonymousThp,
    ] {
        let guest = Guest::new(kind, 8 * MIB);
        let mut vcpu = guest.pagemend.vcpu_thread().unwrap();
        let lost = fault_at(&guest, &mut vcpu, LOST + 8);
        assert_eq!(lost, Some(VcpuFault::Lost { gpa: gpa(LOST) }));
        guest.check_all_but(&[LOST]);
    }
}

#[test]
fn an_address_error_where_memory_never_failed_is_not_ours_even_if_it_can_be_read() {
    let guest = Guest::huge(8 * MIB);
    let mut vcpu = guest.pagemend.vcpu_thread().unwrap();
    let hva = Hva::new(guest.memory.hva().get() + LOST + 8);
    vcpu.run(|| signal_self(libc::BUS_ADRERR, hva.get()));
    assert_eq!(vcpu.take_fault(), Some(VcpuFault::NotOurs { hva }));
    guest.fail(LOST);
    guest.check_all_but(&[LOST]);
    vcpu.run(|| signal_self(libc::BUS_ADRERR, hva.get() + 0x1000));
    assert_eq!(
        vcpu.take_fault(),
        Some(VcpuFault::Mended),
        "a fault told late"
    );
}

#[test]
fn its_own_accesses_outside_the_guest_wait_as_any_threads_do() {
    let guest = Guest::huge(8 * MIB);
    let vcpu = guest.pagemend.vcpu_thread().unwrap();
    guest.fail(LOST);
    guest.check_all_but(&[LOST]);
    drop(vcpu);
}

#[test]
fn an_access_of_its_own_inside_the_run_is_mended_rather_than_repeated_forever() {
    let guest = Guest::huge(8 * MIB);
    let mut vcpu = guest.pagemend.vcpu_thread().unwrap();
    guest.fail(LOST);
    let healthy = LOST + 0x1000;
    let word = vcpu.run(|| guest.load(healthy));
    assert_eq!(word, crate::guest::pattern(gpa(healthy)));
    assert_eq!(vcpu.take_fault(), Some(VcpuFault::Mended));
}

#[test]
fn after_the_mender_has_gone_a_fault_is_nobodys() {
    let guest = Guest::huge(8 * MIB);
    let mut vcpu = guest.pagemend.vcpu_thread().unwrap();
    guest.fail(LOST);
    let address = guest.memory.hva().get() + LOST;
    vcpu.run(|| run_into(address));
    drop(guest);
    let hva = Hva::new(address);
    assert_eq!(vcpu.take_fault(), Some(VcpuFault::NotOurs { hva }));
}

#[test]
fn there_is_room_for_more_vcpus_than_kvm_allows_and_places_are_given_back() {
    let guest = Guest::huge(2 * MIB);
    for _ in 0..2 {
        let mut all = vec![];
        let refused = loop {
            match guest.pagemend.vcpu_thread() {
                Ok(vcpu) => all.push(vcpu),
                Err(refused) => break refused,
            }
        };
        assert!(all.len() > 4096);
        assert!(refused.to_string().contains("4608"));
    }
}

#[test]
fn each_vcpu_gets_its_own_fault() {
    let guest = Guest::huge(8 * MIB);
    let lost: Vec<u64> = (0..4).map(|page| page * 2 * MIB + 0x3000).collect();
    for frame in &lost {
        guest.fail(*frame);
    }
    let (told, seen) = mpsc::channel();
    thread::scope(|scope| {
        for frame in &lost {
            let (guest, told) = (&guest, told.clone());
            scope.spawn(move || {
                let mut vcpu = guest.pagemend.vcpu_thread().unwrap();
                told.send((*frame, fault_at(guest, &mut vcpu, *frame)))
                    .unwrap();
            });
        }
    });
    drop(told);
    for (frame, fault) in seen {
        assert_eq!(fault, Some(VcpuFault::Lost { gpa: gpa(frame) }));
    }
    guest.check_all_but(&lost);
}

#[test]
fn a_thread_that_is_registered_twice_is_in_the_guest_that_it_runs() {
    let guest = Guest::huge(8 * MIB);
    guest.fail(LOST);
    let _idle = guest.pagemend.vcpu_thread().unwrap();
    let mut vcpu = guest.pagemend.vcpu_thread().unwrap();
    let lost = fault_at(&guest, &mut vcpu, LOST);
    assert_eq!(lost, Some(VcpuFault::Lost { gpa: gpa(LOST) }));
}
