//! A vCPU that does with a machine check what KVM and a processor do, and keeps what went wrong.

use std::convert::Infallible;

use pagemend_core::address::Gpa;
use pagemend_guest::deliver::{Bank, State, Vcpu};
use pagemend_guest::x86::MachineCheck;
use pagemend_guest::x86::bits::*;

#[derive(Clone, Debug)]
pub(crate) struct Model {
    pub(crate) state: State,
    pub(crate) banks: Vec<(Bank, u64)>,
    /// An exception that the guest takes when it runs next.
    pub(crate) queued: bool,
    /// What must never happen.
    pub(crate) shut_down: bool,
    pub(crate) dropped: bool,
    pub(crate) overflowed: bool,
    /// Records that the guest's handler or poll has read.
    pub(crate) heard: Vec<MachineCheck>,
}

impl Model {
    pub(crate) fn new(banks: u8) -> Self {
        let bank = Bank {
            ctl: u64::MAX,
            status: 0,
        };
        Self {
            state: State {
                cr4: 0,
                mcg_status: 0,
                mcg_ctl: u64::MAX,
                mcg_ext_ctl: 0,
            },
            banks: vec![(bank, 0); banks.into()],
            queued: false,
            shut_down: false,
            dropped: false,
            overflowed: false,
            heard: Vec::new(),
        }
    }

    /// The guest reads and clears a bank; gives what it read.
    pub(crate) fn poll(&mut self, bank: u8) -> Option<MachineCheck> {
        let (registers, addr) = &mut self.banks[usize::from(bank)];
        let record = MachineCheck {
            bank,
            status: std::mem::take(&mut registers.status),
            addr: *addr,
            misc: 0,
            mcg_status: self.state.mcg_status,
        };
        let valid = record.status & MCI_STATUS_VAL != 0;
        if valid {
            self.heard.push(record);
        }
        valid.then_some(record)
    }

    /// Frames that it has heard of with (AR) and without (AO) having touched them.
    pub(crate) fn heard(&self, required: bool) -> Vec<Gpa> {
        let of_kind = self.heard.iter().filter(|record| {
            let touched = match record.status & MCACOD {
                MCACOD_DATA => true,
                MCACOD_SCRUB => false,
                _ => record.status & MCI_STATUS_DEFERRED == 0,
            };
            record.gpa().is_some() && touched == required
        });
        of_kind.filter_map(MachineCheck::gpa).collect()
    }
}

impl Vcpu for Model {
    type Error = Infallible;

    fn state(&mut self) -> Result<State, Infallible> {
        Ok(self.state)
    }

    fn bank(&mut self, bank: u8) -> Result<Bank, Infallible> {
        Ok(self.banks[usize::from(bank)].0)
    }

    /// `kvm_vcpu_ioctl_x86_set_mce`.
    fn inject(&mut self, record: &MachineCheck) -> Result<(), Infallible> {
        assert_ne!(record.status & MCI_STATUS_VAL, 0, "KVM refuses it");
        let (bank, addr) = &mut self.banks[usize::from(record.bank)];
        let occupied = bank.status & MCI_STATUS_VAL != 0;
        let uncorrected = record.status & MCI_STATUS_UC != 0;
        let no_action = uncorrected
            && record.mcg_status == 0
            && record.status & (MCI_STATUS_PCC | MCI_STATUS_S | MCI_STATUS_AR) == 0;
        if no_action {
            // It takes the guest out of the machine check that it is in.
            self.shut_down |= self.state.mcg_status != 0;
            self.state.mcg_status = 0;
        } else if uncorrected {
            if self.state.mcg_ctl != u64::MAX || bank.ctl != u64::MAX {
                self.dropped = true;
                return Ok(());
            }
            if self.state.mcg_status & MCG_STATUS_MCIP != 0 || self.state.cr4 & CR4_MCE == 0 {
                self.shut_down = true;
                return Ok(());
            }
            self.state.mcg_status = record.mcg_status;
            self.queued = true;
        }
        // A bystander's record says nothing, so nothing is lost with it.
        self.overflowed |= occupied && bank.status & MCI_STATUS_EN != 0;
        *addr = record.addr;
        bank.status = record.status | if occupied { MCI_STATUS_OVER } else { 0 };
        Ok(())
    }
}
