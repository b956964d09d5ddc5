//! The parts of a PC that KVM emulates: interrupt controllers and the timer. They are kept as they
//! were made, so that a reset can put them back.

use kvm_bindings::{
    KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_PIT_SPEAKER_DUMMY,
    kvm_irqchip, kvm_pit_config, kvm_pit_state2,
};
use kvm_ioctls::{Kvm, VmFd};

use crate::devices::{Ports, serial};
use crate::layout;

/// Why the machine has no interrupt controllers or timer.
#[derive(Debug, thiserror::Error)]
#[error("KVM refuses {what}")]
pub struct ChipsetError {
    /// What was asked for.
    what: &'static str,
    /// What KVM said.
    source: kvm_ioctls::Error,
}

fn refused(what: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> ChipsetError {
    move |source| ChipsetError { what, source }
}

/// A virtual machine without memory and vCPUs, and its chips' first state.
pub(crate) struct Chipset {
    vm: VmFd,
    chips: [kvm_irqchip; 3],
    timer: kvm_pit_state2,
}

impl Chipset {
    pub(crate) fn new(kvm: &Kvm) -> Result<Self, ChipsetError> {
        let vm = kvm.create_vm().map_err(refused("a virtual machine"))?;
        vm.set_tss_address(layout::KVM_TSS)
            .and_then(|()| vm.set_identity_map_address(layout::KVM_IDENTITY_MAP))
            .map_err(refused("addresses for pages of its own"))?;
        vm.create_irq_chip()
            .map_err(refused("interrupt controllers"))?;
        vm.create_pit2(kvm_pit_config {
            // Port 0x61 reads as a PC's does, without a thread for the sound.
            flags: KVM_PIT_SPEAKER_DUMMY,
            ..Default::default()
        })
        .map_err(refused("a timer"))?;
        let chip = |chip_id| {
            let mut state = kvm_irqchip {
                chip_id,
                ..Default::default()
            };
            vm.get_irqchip(&mut state).map(|()| state)
        };
        let state = refused("to tell its chips' state");
        let chips = [
            KVM_IRQCHIP_PIC_MASTER,
            KVM_IRQCHIP_PIC_SLAVE,
            KVM_IRQCHIP_IOAPIC,
        ];
        let [master, slave, io_apic] = chips.map(chip);
        let read = || Ok(([master?, slave?, io_apic?], vm.get_pit2()?));
        let (chips, timer) = read().map_err(state)?;
        Ok(Self { vm, chips, timer })
    }

    pub(crate) fn vm(&self) -> &VmFd {
        &self.vm
    }

    /// Has the serial ports' interrupts arrive.
    pub(crate) fn wire(&self, ports: &Ports) -> Result<(), ChipsetError> {
        for (port, irq) in [
            (&ports.console, serial::COM1_IRQ),
            (&ports.channel, serial::COM2_IRQ),
        ] {
            self.vm
                .register_irqfd(port.interrupt(), irq)
                .map_err(refused("an interrupt for a serial port"))?;
        }
        Ok(())
    }

    /// Puts the chips back to how they were made.
    pub(crate) fn reset(&self) -> Result<(), ChipsetError> {
        let put = || {
            for chip in &self.chips {
                self.vm.set_irqchip(chip)?;
            }
            self.vm.set_pit2(&self.timer)
        };
        put().map_err(refused("its chips' first state"))
    }
}
