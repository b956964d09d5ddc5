//! A KVM vCPU as delivery sees it.

use kvm_bindings::{Msrs, kvm_msr_entry};
use kvm_ioctls::VcpuFd;
use vmm_sys_util::errno;

use super::ioctls::set_mce;
use crate::deliver::{Bank, State, Vcpu};
use crate::x86::MachineCheck;
use crate::x86::bits::*;

/// Why a vCPU's registers could not be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegisterError {
    /// The control registers cannot be read.
    #[error("the vCPU's control registers cannot be read")]
    Control(#[source] errno::Error),
    /// A model-specific register cannot be read or written.
    #[error(
        "KVM refuses access to register {msr:#x}: has the vCPU been set up for machine checks?"
    )]
    Msr {
        /// Which.
        msr: u32,
    },
    /// A record was refused.
    #[error(
        "KVM refuses a machine check in bank {bank}: has the vCPU been set up for machine checks?"
    )]
    Inject {
        /// Which bank.
        bank: u8,
        /// What KVM said.
        source: errno::Error,
    },
}

/// A vCPU that is outside the guest, with its MCG_CAP.
#[derive(Debug)]
pub struct KvmVcpu<'a> {
    fd: &'a VcpuFd,
    mcg_cap: u64,
}

impl<'a> KvmVcpu<'a> {
    /// The vCPU that [`setup_vcpu`](super::setup_vcpu) gave this `mcg_cap`.
    pub fn new(fd: &'a VcpuFd, mcg_cap: u64) -> Self {
        Self { fd, mcg_cap }
    }
}

impl Vcpu for KvmVcpu<'_> {
    type Error = RegisterError;

    fn state(&mut self) -> Result<State, RegisterError> {
        let optional = |bit, msr, absent| match self.mcg_cap & bit {
            0 => Ok(absent),
            _ => read(self.fd, msr),
        };
        Ok(State {
            cr4: self.fd.get_sregs().map_err(RegisterError::Control)?.cr4,
            mcg_status: read(self.fd, MSR_MCG_STATUS)?,
            mcg_ctl: optional(MCG_CTL_P, MSR_MCG_CTL, u64::MAX)?,
            mcg_ext_ctl: optional(MCG_LMCE_P, MSR_MCG_EXT_CTL, 0)?,
        })
    }

    fn bank(&mut self, bank: u8) -> Result<Bank, RegisterError> {
        Ok(Bank {
            ctl: read(self.fd, msr_mci_ctl(bank))?,
            status: read(self.fd, msr_mci_status(bank))?,
        })
    }

    fn inject(&mut self, record: &MachineCheck) -> Result<(), RegisterError> {
        let bank = record.bank;
        set_mce(self.fd, record).map_err(|source| RegisterError::Inject { bank, source })
    }
}

/// Reads a register, as the host.
pub(super) fn read(fd: &VcpuFd, msr: u32) -> Result<u64, RegisterError> {
    let mut msrs = one(msr, 0);
    match fd.get_msrs(&mut msrs) {
        Ok(1) => Ok(msrs.as_slice()[0].data),
        _ => Err(RegisterError::Msr { msr }),
    }
}

/// Writes a register, as the host.
pub(super) fn write(fd: &VcpuFd, msr: u32, value: u64) -> Result<(), RegisterError> {
    match fd.set_msrs(&one(msr, value)) {
        Ok(1) => Ok(()),
        _ => Err(RegisterError::Msr { msr }),
    }
}

fn one(index: u32, data: u64) -> Msrs {
    let entry = kvm_msr_entry {
        index,
        data,
        ..Default::default()
    };
    Msrs::from_entries(&[entry]).expect("one register fits")
}
