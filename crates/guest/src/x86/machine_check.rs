//! The record that a bank holds after a memory error: what a processor of each vendor would set.

use pagemend_core::address::{FRAME_SIZE, Gpa};
use serde::{Deserialize, Serialize};

use super::bits::*;

/// Whose rules a guest follows: its CPUID says, which need not be the host's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Vendor {
    /// Intel, and all who follow its architecture (Zhaoxin).
    Intel,
    /// AMD and Hygon.
    Amd,
}

impl Vendor {
    /// Whether a guest of this vendor's processors with this MCG_CAP recovers from machine checks.
    /// AMD's tell it so in CPUID (SUCCOR, overflow recovery), Intel's in MCG_SER_P.
    pub const fn recovers(self, mcg_cap: u64) -> bool {
        matches!(self, Self::Amd) || mcg_cap & MCG_SER_P != 0
    }
}

/// How a guest hears of an error that nobody has touched.
///
/// An error that somebody touched is always an exception.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AoSignal {
    /// Intel's "software recoverable action optional": an exception, on all processors unless
    /// local machine checks are on. The guest has to be able to take it.
    Exception,
    /// Intel's "uncorrected no action" form of the same code: a record, and the interrupt for
    /// corrected errors (CMCI). How processors since Skylake report what their scrubber finds.
    /// Disturbs nobody. Needs [`MCG_CMCI_P`], and thus KVM on Intel from Linux 6.0 on: earlier
    /// kernels would make it an exception outside of any machine check.
    Interrupt,
    /// AMD's deferred error: a record, which the guest finds when it next polls its banks. A
    /// processor could raise an interrupt, for which KVM has no registers.
    Record,
}

impl AoSignal {
    /// The best that a vCPU with this MCG_CAP can be told by.
    pub const fn best(vendor: Vendor, mcg_cap: u64) -> Self {
        match vendor {
            Vendor::Amd => Self::Record,
            Vendor::Intel if mcg_cap & MCG_CMCI_P != 0 => Self::Interrupt,
            Vendor::Intel => Self::Exception,
        }
    }

    /// Whether the guest's handler of machine checks is called.
    pub const fn is_exception(self) -> bool {
        matches!(self, Self::Exception)
    }
}

/// One machine check: a bank's registers, and MCG_STATUS while it is handled.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Serialize, Deserialize)]
pub struct MachineCheck {
    /// Which bank.
    pub bank: u8,
    /// MCi_STATUS.
    pub status: u64,
    /// MCi_ADDR.
    pub addr: u64,
    /// MCi_MISC.
    pub misc: u64,
    /// MCG_STATUS; 0 for a record that is no exception.
    pub mcg_status: u64,
}

/// MCi_MISC of every record that is made here: a physical address, of which the bits from a
/// frame's size on mean something. Linux takes no other mode, and loses as much memory as the low
/// bits say (`mce_usable_address`, `memory_failure` in `mce/core.c`).
pub(crate) const MISC_FRAME: u64 =
    MCI_MISC_ADDR_PHYS << MCI_MISC_ADDR_MODE_SHIFT | FRAME_SIZE.trailing_zeros() as u64;

/// What every record has: valid, enabled, with address and its form.
const STATUS_ALWAYS: u64 = MCI_STATUS_VAL | MCI_STATUS_EN | MCI_STATUS_MISCV | MCI_STATUS_ADDRV;

impl MachineCheck {
    /// Somebody touched the frame of `gpa`: an exception at the instruction that did. `local` where
    /// an Intel guest has opted in to local machine checks.
    pub const fn action_required(vendor: Vendor, bank: u8, gpa: Gpa, local: bool) -> Self {
        let status = match vendor {
            // KVM does not say what kind of access it was. A data load it is for Linux also where
            // an instruction was fetched: both codes lead to the same recovery.
            Vendor::Intel => MCI_STATUS_UC | MCI_STATUS_S | MCI_STATUS_AR | MCACOD_DATA,
            Vendor::Amd => MCI_STATUS_UC | MCI_STATUS_POISON,
        };
        Self::of(bank, status, gpa).signalled(vendor, MCG_STATUS_RIPV | MCG_STATUS_EIPV, local)
    }

    /// The frame of `gpa` has failed and nobody has touched it.
    pub const fn action_optional(
        vendor: Vendor,
        signal: AoSignal,
        bank: u8,
        gpa: Gpa,
        local: bool,
    ) -> Self {
        match (vendor, signal) {
            (Vendor::Amd, _) => Self::of(bank, MCI_STATUS_DEFERRED | MCI_STATUS_POISON, gpa),
            (Vendor::Intel, AoSignal::Exception) => {
                // Not where the instruction is: it has nothing to do with the error.
                Self::of(bank, MCI_STATUS_UC | MCI_STATUS_S | MCACOD_SCRUB, gpa).signalled(
                    vendor,
                    MCG_STATUS_RIPV,
                    local,
                )
            }
            (Vendor::Intel, AoSignal::Interrupt | AoSignal::Record) => {
                Self::of(bank, MCI_STATUS_UC | MCACOD_SCRUB, gpa)
            }
        }
    }

    /// What the other processors of an Intel guest get when one is told without a local machine
    /// check: all of them have to arrive in their handlers within a second, or the guest panics
    /// (`mce_start`, `mce/core.c`). KVM raises an exception only with a valid uncorrected record,
    /// so it has one, which is not enabled: handlers clear and ignore it. Signalled, because Linux
    /// leaves what is not for its poll, which logs it (`__mc_scan_banks`).
    pub const fn bystander(bank: u8) -> Self {
        Self {
            bank,
            status: MCI_STATUS_VAL | MCI_STATUS_UC | MCI_STATUS_S,
            addr: 0,
            misc: 0,
            mcg_status: MCG_STATUS_MCIP | MCG_STATUS_RIPV,
        }
    }

    const fn of(bank: u8, status: u64, gpa: Gpa) -> Self {
        Self {
            bank,
            status: STATUS_ALWAYS | status,
            addr: gpa.get() & !(FRAME_SIZE - 1),
            misc: MISC_FRAME,
            mcg_status: 0,
        }
    }

    const fn signalled(mut self, vendor: Vendor, where_from: u64, local: bool) -> Self {
        self.mcg_status = MCG_STATUS_MCIP | where_from;
        // AMD's are always local, and say nothing about it.
        if local && matches!(vendor, Vendor::Intel) {
            self.mcg_status |= MCG_STATUS_LMCES;
        }
        self
    }

    /// The frame that it is about, if it is about one.
    pub const fn gpa(&self) -> Option<Gpa> {
        if self.status & MCI_STATUS_ADDRV != 0 {
            Some(Gpa::new(self.addr))
        } else {
            None
        }
    }

    /// Whether it calls the guest's handler, or only lies in its bank.
    pub const fn is_exception(&self) -> bool {
        self.mcg_status & MCG_STATUS_MCIP != 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GPA: Gpa = Gpa::new(0x1_2345_6000);

    /// What QEMU injects, in its `kvm_mce_inject` (target/i386/kvm/kvm.c).
    #[test]
    fn records_are_those_that_linux_guests_know_from_qemu() {
        let check = |mce: MachineCheck, status, mcg_status| {
            let expected = MachineCheck {
                bank: 9,
                status,
                addr: GPA.get(),
                misc: 0x8c,
                mcg_status,
            };
            assert_eq!(mce, expected);
        };
        let required = |vendor, local| MachineCheck::action_required(vendor, 9, GPA, local);
        let optional =
            |vendor, signal, local| MachineCheck::action_optional(vendor, signal, 9, GPA, local);
        use AoSignal::*;
        check(required(Vendor::Intel, false), 0xbd80_0000_0000_0134, 7);
        check(required(Vendor::Intel, true), 0xbd80_0000_0000_0134, 0xf);
        check(required(Vendor::Amd, false), 0xbc00_0800_0000_0000, 7);
        check(
            optional(Vendor::Intel, Exception, false),
            0xbd00_0000_0000_00c0,
            5,
        );
        check(
            optional(Vendor::Intel, Exception, true),
            0xbd00_0000_0000_00c0,
            0xd,
        );
        // QEMU raises an exception with it, at which Linux leaves the record for its poll.
        check(
            optional(Vendor::Amd, Record, false),
            0x9c00_1800_0000_0000,
            0,
        );
        // Not QEMU's: without S, as in the SDM's table of uncorrected recoverable errors.
        check(
            optional(Vendor::Intel, Interrupt, false),
            0xbc00_0000_0000_00c0,
            0,
        );
    }

    #[test]
    fn the_best_signal_is_the_least_disturbing_that_is_there() {
        assert_eq!(AoSignal::best(Vendor::Intel, 0), AoSignal::Exception);
        assert_eq!(
            AoSignal::best(Vendor::Intel, MCG_CMCI_P),
            AoSignal::Interrupt
        );
        assert_eq!(AoSignal::best(Vendor::Amd, MCG_CMCI_P), AoSignal::Record);
    }

    fn any_record() -> impl Strategy<Value = (Vendor, u64, MachineCheck)> {
        let vendor = prop_oneof![Just(Vendor::Intel), Just(Vendor::Amd)];
        let signal = prop_oneof![
            Just(None),
            Just(Some(AoSignal::Exception)),
            Just(Some(AoSignal::Interrupt)),
            Just(Some(AoSignal::Record))
        ];
        (vendor, signal, 0..32u8, 0..1u64 << 52, any::<bool>()).prop_map(
            |(vendor, signal, bank, gpa, local)| {
                let at = Gpa::new(gpa);
                let record = match signal {
                    None => MachineCheck::action_required(vendor, bank, at, local),
                    Some(signal) => MachineCheck::action_optional(vendor, signal, bank, at, local),
                };
                (vendor, gpa, record)
            },
        )
    }

    proptest! {
        #[test]
        fn a_record_says_exactly_its_frame((_, gpa, record) in any_record()) {
            let both = MCI_STATUS_ADDRV | MCI_STATUS_MISCV | MCI_STATUS_VAL | MCI_STATUS_EN;
            prop_assert_eq!(record.status & both, both);
            prop_assert_eq!(record.misc & MCI_MISC_ADDR_LSB_MASK, 12);
            prop_assert_eq!(record.misc >> MCI_MISC_ADDR_MODE_SHIFT & 7, MCI_MISC_ADDR_PHYS);
            prop_assert_eq!(record.gpa(), Some(Gpa::new(gpa).frame()));
        }

        #[test]
        fn nothing_says_that_the_processor_is_corrupt_or_that_errors_were_lost((_, _, record) in any_record()) {
            prop_assert_eq!(record.status & (MCI_STATUS_PCC | MCI_STATUS_OVER), 0);
            prop_assert!(!record.is_exception() || record.mcg_status & MCG_STATUS_RIPV != 0);
        }

        /// SDM "UCR Error Classification"; APM: a deferred error is not signalled by #MC.
        #[test]
        fn bits_that_go_together_go_together((vendor, _, record) in any_record()) {
            let has = |bit| record.status & bit != 0;
            match vendor {
                Vendor::Intel => {
                    prop_assert!(has(MCI_STATUS_UC));
                    prop_assert_eq!(has(MCI_STATUS_S), record.is_exception());
                    prop_assert!(has(MCI_STATUS_S) || !has(MCI_STATUS_AR));
                    let eipv = record.mcg_status & MCG_STATUS_EIPV != 0;
                    prop_assert_eq!(has(MCI_STATUS_AR), eipv);
                }
                Vendor::Amd => {
                    prop_assert!(has(MCI_STATUS_UC) != has(MCI_STATUS_DEFERRED));
                    prop_assert_eq!(has(MCI_STATUS_UC), record.is_exception());
                    prop_assert_eq!(record.status & (MCI_STATUS_TCC | MCI_STATUS_S), 0);
                    prop_assert_eq!(record.mcg_status & MCG_STATUS_LMCES, 0);
                }
            }
        }

        #[test]
        fn every_status_register_is_of_one_bank(msr in 0x3f0..0x490u32) {
            let expected = (0..32).find(|bank| msr_mci_status(*bank) == msr);
            prop_assert_eq!(bank_of_status(msr), expected);
        }
    }
}
