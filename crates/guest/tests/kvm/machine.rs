//! A machine around the program: memory, tables, vCPUs, and what the guest says.

use std::sync::Arc;

use kvm_bindings::{
    CpuId, KVM_MAX_CPUID_ENTRIES, kvm_regs, kvm_segment, kvm_userspace_memory_region,
};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use pagemend_core::address::{Gpa, GpaRange, PageSize};
use pagemend_guest::deliver::{Answer, Config, DEFAULT_BANKS, MachineChecks, Outcome, Teller};
use pagemend_guest::kvm::{self, KvmVcpu};
use pagemend_guest::x86::bits::bank_of_status;
use pagemend_guest::x86::{AoSignal, MachineCheck, Vendor};
use pagemend_linux::{GuestMemory, MemoryKind};

use crate::program::{ASK, CODE, Command, END, SAY, STACK, program};

const GDT: u64 = 0x1000;
const IDT: u64 = 0x2000;
const PML4: u64 = 0x3000;
const PDPT: u64 = 0x4000;
const PD: u64 = 0x5000;
const LEN: u64 = 1 << 21;
/// Of the flat code segment.
const CODE_SELECTOR: u16 = 8;

pub(crate) struct Machine {
    pub(crate) checks: Arc<MachineChecks>,
    pub(crate) vcpus: Vec<Vcpu>,
    pub(crate) vm: VmFd,
    memory: GuestMemory,
}

pub(crate) struct Vcpu {
    pub(crate) fd: VcpuFd,
    pub(crate) mcg_cap: u64,
    pub(crate) teller: Teller,
    /// Which registers the guest has accessed with an exit, and whether to write.
    pub(crate) accesses: Vec<(u32, bool)>,
}

/// What the guest's handler has said: MCG_STATUS, and each bank's record.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) mcg_status: u64,
    pub(crate) records: Vec<MachineCheck>,
}

/// `/dev/kvm`, or `None` and a line that says so.
pub(crate) fn kvm() -> Option<Kvm> {
    match Kvm::new() {
        Ok(kvm) => Some(kvm),
        Err(error) => {
            eprintln!("skipped: no /dev/kvm ({error}); a guest's own view is not tested here");
            None
        }
    }
}

impl Machine {
    pub(crate) fn new(kvm: &Kvm, vendor: Vendor, signal: AoSignal, vcpus: usize) -> Self {
        let memory = GuestMemory::new(MemoryKind::Anonymous, LEN).unwrap();
        let vm = kvm.create_vm().unwrap();
        let region = kvm_userspace_memory_region {
            slot: 0,
            flags: 0,
            guest_phys_addr: 0,
            memory_size: LEN,
            userspace_addr: memory.as_ptr() as u64,
        };
        // SAFETY: the memory lives as long as the machine.
        unsafe { vm.set_user_memory_region(region) }.unwrap();
        let config = Config {
            vendor,
            signal,
            // Here the test's own handler takes them, whatever Linux would make of them.
            recovers: true,
            banks: DEFAULT_BANKS,
            vcpus,
            limit: 512,
        };
        let checks = MachineChecks::new(config);
        let mut machine = Self {
            vcpus: (0..vcpus)
                .map(|vcpu| Vcpu::new(kvm, &vm, vcpu, &checks))
                .collect(),
            checks,
            vm,
            memory,
        };
        machine.load();
        machine
    }

    /// Tables and program.
    fn load(&mut self) {
        let (code, handler) = program();
        self.write(CODE, code);
        self.words(GDT, &[0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff]);
        // An interrupt gate, present, for vector 18; all others are absent.
        let handler = CODE + handler;
        let gate = handler & 0xffff | u64::from(CODE_SELECTOR) << 16 | 0x8e00 << 32;
        self.words(IDT + 16 * 18, &[gate | (handler & 0xffff_0000) << 32, 0]);
        // Each guest address is its own physical address, by pages of 2 MiB, up to 2 GiB.
        self.words(PML4, &[PDPT | 3]);
        self.words(PDPT, &[PD | 3, (PD + 0x1000) | 3]);
        let pages: Vec<u64> = (0..1024).map(|page| page << 21 | 0x83).collect();
        self.words(PD, &pages);
    }

    fn words(&mut self, at: u64, words: &[u64]) {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.write(at, &bytes);
    }

    fn write(&mut self, at: u64, bytes: &[u8]) {
        assert!(at + bytes.len() as u64 <= LEN);
        // SAFETY: it lies in the memory, and no vCPU runs yet.
        unsafe {
            let to = self.memory.as_ptr().add(at as usize);
            std::ptr::copy(bytes.as_ptr(), to, bytes.len());
        }
    }

    pub(crate) fn lost(&self, frame: u64) {
        let frame = GpaRange::page(Gpa::new(frame << 12), PageSize::SIZE_4K);
        assert_eq!(self.checks.lost([frame]).added, 1);
    }
}

impl Vcpu {
    fn new(kvm: &Kvm, vm: &VmFd, number: usize, checks: &Arc<MachineChecks>) -> Self {
        let fd = vm.create_vcpu(number as u64).unwrap();
        let mut cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).unwrap();
        let config = checks.config();
        name(&mut cpuid, config.vendor);
        kvm::cpuid::let_recover(&mut cpuid, config.vendor).unwrap();
        fd.set_cpuid2(&cpuid).unwrap();
        let supported = kvm::mce_cap_kept(kvm).unwrap();
        let mcg_cap = kvm::setup_vcpu(&fd, &cpuid, supported, config.banks).unwrap();
        let mut system = fd.get_sregs().unwrap();
        let segment = |selector, type_, l| kvm_segment {
            limit: u32::MAX,
            selector,
            type_,
            present: 1,
            s: 1,
            db: 1 - l,
            l,
            g: 1,
            ..Default::default()
        };
        system.cs = segment(CODE_SELECTOR, 0xb, 1);
        (system.ds, system.es, system.ss) =
            (segment(16, 3, 0), segment(16, 3, 0), segment(16, 3, 0));
        (system.gdt.base, system.gdt.limit) = (GDT, 23);
        (system.idt.base, system.idt.limit) = (IDT, 16 * 19 - 1);
        system.cr3 = PML4;
        // PE, NE, PG; PAE; LME and LMA: 64-bit mode. CR4.MCE is left to the guest.
        system.cr0 |= 1 | 1 << 5 | 1 << 31;
        system.cr4 |= 1 << 5;
        system.efer |= 1 << 8 | 1 << 10;
        fd.set_sregs(&system).unwrap();
        fd.set_regs(&kvm_regs {
            rip: CODE,
            rsp: STACK + 0x1000 * number as u64,
            rflags: 2,
            ..Default::default()
        })
        .unwrap();
        Self {
            fd,
            mcg_cap,
            teller: checks.teller(number),
            accesses: Vec::new(),
        }
    }

    pub(crate) fn before_run(&mut self) -> Outcome {
        let mut vcpu = KvmVcpu::new(&self.fd, self.mcg_cap);
        self.teller.before_run(&mut vcpu).unwrap()
    }

    pub(crate) fn touched(&mut self, frame: u64) -> Answer {
        let mut vcpu = KvmVcpu::new(&self.fd, self.mcg_cap);
        self.teller
            .touched(&mut vcpu, Gpa::new(frame << 12))
            .unwrap()
    }

    /// Has the guest follow the commands, and gives what it reported by the time that it asks
    /// again. What waits is told before each entry, as a VMM does.
    pub(crate) fn run(&mut self, commands: &[Command]) -> Vec<Report> {
        let mut commands = commands.iter();
        let mut said = Vec::new();
        loop {
            self.before_run();
            let mut accessed = None;
            match self.fd.run().unwrap() {
                VcpuExit::IoIn(ASK, data) => {
                    let next = commands.next();
                    let command = next.copied().unwrap_or(Command::Idle) as u32;
                    data.copy_from_slice(&command.to_le_bytes());
                    if next.is_none() {
                        return reports(&said);
                    }
                }
                VcpuExit::IoOut(SAY, data) => {
                    said.push(u32::from_le_bytes(data.try_into().unwrap()));
                }
                VcpuExit::X86Rdmsr(exit) => accessed = Some((exit.index, None)),
                VcpuExit::X86Wrmsr(exit) => accessed = Some((exit.index, Some(exit.data))),
                other => panic!("the guest left with {other:?}"),
            }
            if let Some((msr, written)) = accessed {
                self.accesses.push((msr, written.is_some()));
            }
            let (fd, teller) = (&mut self.fd, &mut self.teller);
            let watched = match accessed {
                None => continue,
                Some((msr, None)) => kvm::register_read(fd, teller, msr),
                Some((msr, Some(value))) => kvm::register_written(fd, teller, msr, value),
            };
            assert!(watched.unwrap(), "an exit that nobody asked for");
        }
    }
}

/// What a guest has said, machine check by machine check.
pub(crate) fn reports(said: &[u32]) -> Vec<Report> {
    let wide = |words: &[u32]| u64::from(words[1]) << 32 | u64::from(words[0]);
    let parts = said.split(|word| *word == END);
    let whole = parts.filter(|part| !part.is_empty()).map(|part| {
        let mcg_status = part[0].into();
        let records = part[1..].chunks(6).map(|words| MachineCheck {
            bank: bank_of_status(words[0]).unwrap(),
            status: wide(&words[1..]),
            addr: wide(&words[3..]),
            misc: words[5].into(),
            mcg_status,
        });
        Report {
            mcg_status,
            records: records.collect(),
        }
    });
    whole.collect()
}

/// Makes it the CPUID of a processor of that vendor: the guest does not look, but set-up does.
fn name(cpuid: &mut CpuId, vendor: Vendor) {
    let name = match vendor {
        Vendor::Intel => b"GenuineIntel",
        Vendor::Amd => b"AuthenticAMD",
    };
    let word = |at: usize| u32::from_le_bytes(name[at..at + 4].try_into().unwrap());
    for leaf in cpuid
        .as_mut_slice()
        .iter_mut()
        .filter(|leaf| leaf.function == 0)
    {
        (leaf.ebx, leaf.edx, leaf.ecx) = (word(0), word(4), word(8));
    }
}
