//! Every bit and number of the machine-check architecture that a record is made of.
//!
//! One place, with the source beside each, because most of them are set and read in different
//! files and a wrong one is a guest that panics.

use std::ops::RangeInclusive;

/// `MSR_IA32_MCG_CAP`: what the processor has (SDM "IA32_MCG_CAP MSR"; Linux
/// `arch/x86/include/asm/msr-index.h`, as all registers here).
pub const MSR_MCG_CAP: u32 = 0x179;
/// `MSR_IA32_MCG_STATUS`: the state of the processor in a machine check.
pub const MSR_MCG_STATUS: u32 = 0x17a;
/// `MSR_IA32_MCG_CTL`: all ones where reporting is on; exists with [`MCG_CTL_P`].
pub const MSR_MCG_CTL: u32 = 0x17b;
/// `MSR_IA32_MCG_EXT_CTL`: whether software has opted in to local machine checks.
pub const MSR_MCG_EXT_CTL: u32 = 0x4d0;
/// `MSR_IA32_FEAT_CTL`: what firmware has allowed, local machine checks among it.
pub const MSR_FEAT_CTL: u32 = 0x3a;
/// `MSR_K7_HWCR`: AMD's, with the bit that lets software write MCi_STATUS (APM 9.3.2.4).
pub const MSR_K7_HWCR: u32 = 0xc001_0015;
/// `MSR_IA32_MC0_CTL`: the first of four registers for each bank.
const MSR_MC0_CTL: u32 = 0x400;

/// MCi_CTL of a bank: all ones where its errors are reported.
pub const fn msr_mci_ctl(bank: u8) -> u32 {
    MSR_MC0_CTL + 4 * bank as u32
}

/// MCi_STATUS of a bank.
pub const fn msr_mci_status(bank: u8) -> u32 {
    msr_mci_ctl(bank) + 1
}

/// The bank whose MCi_STATUS this register is, if it is one of 32 banks, which are all that KVM
/// has (`KVM_MAX_MCE_BANKS`, `arch/x86/include/asm/kvm_host.h`).
pub const fn bank_of_status(msr: u32) -> Option<u8> {
    if msr >= msr_mci_status(0) && msr <= msr_mci_status(31) && (msr - MSR_MC0_CTL) % 4 == 1 {
        Some(((msr - MSR_MC0_CTL) / 4) as u8)
    } else {
        None
    }
}

/// Bits of MCG_CAP with the number of banks (`MCG_BANKCNT_MASK`).
pub const MCG_BANKCNT_MASK: u64 = 0xff;
/// `MCG_CTL_P`: MCG_CTL exists.
pub const MCG_CTL_P: u64 = 1 << 8;
/// `MCG_CMCI_P`: corrected and deferred errors raise an interrupt of their own (SDM "CMCI").
pub const MCG_CMCI_P: u64 = 1 << 10;
/// `MCG_SER_P`: software can recover from uncorrected errors; [`MCI_STATUS_S`] and
/// [`MCI_STATUS_AR`] have their meaning (SDM "Recovery of Uncorrected Recoverable Errors").
pub const MCG_SER_P: u64 = 1 << 24;
/// `MCG_LMCE_P`: a machine check can be told to one logical processor instead of all.
pub const MCG_LMCE_P: u64 = 1 << 27;

/// `MCG_STATUS_RIPV`: the program can be restarted where the exception was pushed.
pub const MCG_STATUS_RIPV: u64 = 1 << 0;
/// `MCG_STATUS_EIPV`: that place has directly to do with the error.
pub const MCG_STATUS_EIPV: u64 = 1 << 1;
/// `MCG_STATUS_MCIP`: a machine check is in progress; another one now shuts the processor down.
pub const MCG_STATUS_MCIP: u64 = 1 << 2;
/// `MCG_STATUS_LMCES`: it was told to this logical processor only.
pub const MCG_STATUS_LMCES: u64 = 1 << 3;

/// `MCG_EXT_CTL_LMCE_EN`: software has opted in to local machine checks.
pub const MCG_EXT_CTL_LMCE_EN: u64 = 1 << 0;
/// `FEAT_CTL_LOCKED`: firmware is done with the register.
pub const FEAT_CTL_LOCKED: u64 = 1 << 0;
/// `FEAT_CTL_LMCE_ENABLED`: firmware allows local machine checks.
pub const FEAT_CTL_LMCE_ENABLED: u64 = 1 << 20;
/// McStatusWrEn of HWCR: software may write any value to MCi_STATUS (APM 9.3.2.4; KVM
/// `can_set_mci_status`, `arch/x86/kvm/x86.c`).
pub const HWCR_MC_STATUS_WR_EN: u64 = 1 << 18;

/// `X86_CR4_MCE` (`arch/x86/include/uapi/asm/processor-flags.h`): machine checks are taken;
/// where it is clear, one shuts the processor down.
pub const CR4_MCE: u64 = 1 << 6;

/// `MCI_STATUS_VAL`: the bank holds a record.
pub const MCI_STATUS_VAL: u64 = 1 << 63;
/// `MCI_STATUS_OVER`: another error came while the bank held one (SDM "Overwrite Rules").
pub const MCI_STATUS_OVER: u64 = 1 << 62;
/// `MCI_STATUS_UC`: the hardware has not corrected it.
pub const MCI_STATUS_UC: u64 = 1 << 61;
/// `MCI_STATUS_EN`: it was enabled in MCi_CTL. A handler skips records without it.
pub const MCI_STATUS_EN: u64 = 1 << 60;
/// `MCI_STATUS_MISCV`: MCi_MISC holds something.
pub const MCI_STATUS_MISCV: u64 = 1 << 59;
/// `MCI_STATUS_ADDRV`: MCi_ADDR holds an address.
pub const MCI_STATUS_ADDRV: u64 = 1 << 58;
/// `MCI_STATUS_PCC`: the processor's own state may be corrupt: nothing can be recovered.
pub const MCI_STATUS_PCC: u64 = 1 << 57;
/// `MCI_STATUS_S`: Intel with [`MCG_SER_P`]: signalled by a machine-check exception.
pub const MCI_STATUS_S: u64 = 1 << 56;
/// `MCI_STATUS_AR`: Intel with [`MCG_SER_P`]: software must act before the program goes on.
pub const MCI_STATUS_AR: u64 = 1 << 55;
/// `MCI_STATUS_TCC`: AMD, in the place of [`MCI_STATUS_AR`]: the interrupted task is corrupt.
pub const MCI_STATUS_TCC: u64 = 1 << 55;
/// `MCI_STATUS_DEFERRED`: AMD: uncorrected, not yet used, no exception (APM "Deferred Errors").
pub const MCI_STATUS_DEFERRED: u64 = 1 << 44;
/// `MCI_STATUS_POISON`: AMD: poisoned data was consumed. Linux takes the address of a deferred
/// error for usable only if this is set (`amd_mce_usable_address`, `mce/amd.c`, since 6.6).
pub const MCI_STATUS_POISON: u64 = 1 << 43;

/// `MCACOD`: the error code, low 16 bits of MCi_STATUS (SDM "Interpreting the MCA Error Codes").
pub const MCACOD: u64 = 0xffff;
/// The codes of an error that patrol scrubbing found, `MCACOD_SCRUB` with any channel
/// (`MCACOD_SCRUBMSK`).
pub const MCACOD_SCRUB_CODES: RangeInclusive<u64> = 0xc0..=0xcf;
/// `MCACOD_SCRUB` with channel 0.
pub const MCACOD_SCRUB: u64 = 0xc0;
/// Where the number of corrected errors is in MCi_STATUS, and how wide ([`MCI_STATUS_CEC_MASK`]):
/// Intel's, in records of corrected errors (`MCI_STATUS_CEC_SHIFT`).
pub const MCI_STATUS_CEC_SHIFT: u32 = 38;
/// Fifteen bits (`MCI_STATUS_CEC_MASK`, not shifted).
pub const MCI_STATUS_CEC_MASK: u64 = 0x7fff;
/// Where the processor model's own error code is in MCi_STATUS (SDM "Model-Specific Error Code
/// Field", 16 bits; AMD's extended error code are the low 6 of them).
pub const MCI_STATUS_MSCOD_SHIFT: u32 = 16;

/// `MCACOD_L3WB`: an explicit write back of the last cache level.
pub const MCACOD_L3WB: u64 = 0x17a;
/// `MCACOD_DATA`: a data load.
pub const MCACOD_DATA: u64 = 0x134;
/// `MCACOD_INSTR`: an instruction fetch.
pub const MCACOD_INSTR: u64 = 0x150;

/// Bits of MCi_MISC with the lowest address bit that means something (`MCI_MISC_ADDR_LSB`).
pub const MCI_MISC_ADDR_LSB_MASK: u64 = 0x3f;
/// Where the address mode is in MCi_MISC (`MCI_MISC_ADDR_MODE`), three bits wide.
pub const MCI_MISC_ADDR_MODE_SHIFT: u32 = 6;
/// `MCI_MISC_ADDR_PHYS`: a physical address.
pub const MCI_MISC_ADDR_PHYS: u64 = 2;

// CPUID, as bits of the register named.

/// Machine-check exception: leaf 1, EDX (SDM volume 2A, CPUID).
pub const CPUID_1_EDX_MCE: u32 = 1 << 7;
/// Machine-check architecture: leaf 1, EDX.
pub const CPUID_1_EDX_MCA: u32 = 1 << 14;
/// AMD's leaf of RAS capabilities (APM volume 3, appendix E).
pub const CPUID_AMD_RAS: u32 = 0x8000_0007;
/// MCA overflow recovery: leaf [`CPUID_AMD_RAS`], EBX (`X86_FEATURE_OVERFLOW_RECOV`).
pub const CPUID_AMD_RAS_EBX_OVERFLOW_RECOV: u32 = 1 << 0;
/// Uncorrected-error containment and recovery: the same (`X86_FEATURE_SUCCOR`).
pub const CPUID_AMD_RAS_EBX_SUCCOR: u32 = 1 << 1;
/// Scalable MCA: the same (`X86_FEATURE_SMCA`). KVM has none of its registers.
pub const CPUID_AMD_RAS_EBX_SMCA: u32 = 1 << 3;
