//! The devices that a stock kernel needs to start, to speak and to end: two serial ports, a reset
//! line, a power switch, a bell for emergencies and a slot for what the guest says of itself. Everything else reads as if nothing were there.

pub(crate) mod osc;
pub(crate) mod panic;
pub(crate) mod power;
pub(crate) mod serial;

use std::sync::Arc;

use crate::events::Hub;
use crate::tell::Told;
use power::Power;
use serial::SerialPort;

/// What a guest has asked for through a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Demand {
    /// To start again.
    Reset,
    /// To be switched off.
    Off,
}

/// All ports of the machine, shared by its vCPUs.
#[derive(Clone)]
pub(crate) struct Ports {
    pub(crate) console: Arc<SerialPort>,
    pub(crate) channel: Arc<SerialPort>,
    pub(crate) hub: Hub,
    pub(crate) told: Told,
}

impl Ports {
    pub(crate) fn read(&self, port: u16, data: &mut [u8]) {
        match (self.serial(port), data) {
            (Some((serial, offset)), [byte]) => *byte = serial.read(offset),
            (None, [byte]) if port == panic::PORT => *byte = panic::read(),
            (None, [byte]) if Power::has(port) => *byte = Power::read(port),
            // A bus on which nobody answers.
            (_, data) => data.fill(0xff),
        }
    }

    /// Returns what the guest asks for by writing `data`.
    pub(crate) fn write(&self, port: u16, data: &[u8]) -> Option<Demand> {
        if let (osc::PORT, Ok(word)) = (port, data.try_into()) {
            osc::write(u32::from_le_bytes(word), &self.told);
        }
        let &[byte] = data else { return None };
        match self.serial(port) {
            Some((serial, offset)) => {
                serial.write(offset, byte);
                None
            }
            None if port == panic::PORT => {
                panic::write(byte, &self.hub);
                None
            }
            None => Power::write(port, byte),
        }
    }

    fn serial(&self, port: u16) -> Option<(&SerialPort, u8)> {
        [(serial::COM1, &self.console), (serial::COM2, &self.channel)]
            .into_iter()
            .find_map(|(base, serial)| {
                let offset = port.checked_sub(base).filter(|at| *at < serial::PORTS)?;
                Some((&**serial, offset as u8))
            })
    }
}
