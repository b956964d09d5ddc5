//! A guest that polls a source of records as Linux does, step by step, so that anything can happen
//! between two of its steps (`ghes_proc`, drivers/acpi/apei/ghes.c).

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use pagemend_core::address::Gpa;
use pagemend_cper::section::Section;
use pagemend_cper::status::StatusBlock;
use pagemend_guest::ghes::{Place, Window};

/// A frame of guest memory, shared by firmware and guest.
#[derive(Clone, Debug)]
pub(crate) struct Memory(Rc<Inner>);

#[derive(Debug)]
struct Inner {
    bytes: RefCell<Vec<u8>>,
    /// Accesses that succeed before the memory fails.
    left: Cell<Option<u32>>,
}

/// It has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Failed;

const BASE: u64 = 0x1f_f000;

pub(crate) fn place() -> Place {
    Place::new(Gpa::new(BASE))
}

impl Memory {
    pub(crate) fn new() -> Self {
        Self(Rc::new(Inner {
            bytes: RefCell::new(vec![0xa5; Place::LEN as usize]),
            left: Cell::new(None),
        }))
    }

    /// It fails after so many accesses of the firmware's.
    pub(crate) fn fail_after(&self, accesses: u32) {
        self.0.left.set(Some(accesses));
    }

    /// It is renewed.
    pub(crate) fn renew(&self) {
        self.0.left.set(None);
        self.0.bytes.borrow_mut().fill(0);
    }

    fn get<const N: usize>(&self, gpa: Gpa) -> [u8; N] {
        let at = (gpa.get() - BASE) as usize;
        self.0.bytes.borrow()[at..at + N].try_into().unwrap()
    }

    fn put(&self, gpa: Gpa, bytes: &[u8]) {
        let at = (gpa.get() - BASE) as usize;
        self.0.bytes.borrow_mut()[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn access(&self) -> Result<(), Failed> {
        match self.0.left.get() {
            Some(0) => Err(Failed),
            left => {
                self.0.left.set(left.map(|left| left - 1));
                Ok(())
            }
        }
    }
}

impl Window for Memory {
    type Error = Failed;

    fn load(&self, gpa: Gpa) -> Result<u64, Failed> {
        self.access()?;
        assert_eq!(gpa.get() % 8, 0);
        Ok(u64::from_le_bytes(self.get(gpa)))
    }

    fn store(&self, gpa: Gpa, value: u64) -> Result<(), Failed> {
        self.access()?;
        assert_eq!(gpa.get() % 8, 0);
        self.put(gpa, &value.to_le_bytes());
        Ok(())
    }

    fn load_half(&self, gpa: Gpa) -> Result<u32, Failed> {
        self.access()?;
        assert_eq!(gpa.get() % 4, 0);
        Ok(u32::from_le_bytes(self.get(gpa)))
    }

    fn store_half(&self, gpa: Gpa, value: u32) -> Result<(), Failed> {
        self.access()?;
        assert_eq!(gpa.get() % 4, 0);
        self.put(gpa, &value.to_le_bytes());
        Ok(())
    }

    fn write(&self, gpa: Gpa, bytes: &[u8]) -> Result<(), Failed> {
        self.access()?;
        self.put(gpa, bytes);
        Ok(())
    }
}

/// Where the guest's driver is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum At {
    /// Between two polls.
    #[default]
    Rest,
    /// It has copied a record.
    Copied,
    /// It has cleared the block's status.
    Cleared,
}

/// A guest's driver, and what it has heard of.
#[derive(Debug)]
pub(crate) struct Guest {
    memory: Memory,
    at: At,
    pub(crate) heard: Vec<Gpa>,
}

impl Guest {
    pub(crate) fn new(memory: &Memory) -> Self {
        Self {
            memory: memory.clone(),
            at: At::Rest,
            heard: vec![],
        }
    }

    pub(crate) fn acknowledges_everything(&self) -> bool {
        let ack = u64::from_le_bytes(self.memory.get(place().read_ack()));
        ack & 1 == 1
    }

    /// Starts again: its driver is at rest.
    pub(crate) fn restart(&mut self) {
        self.at = At::Rest;
    }

    /// One step of its driver.
    pub(crate) fn step(&mut self) {
        self.at = match self.at {
            At::Rest => {
                let block = u64::from_le_bytes(self.memory.get(place().status_address()));
                let block: [u8; 1024] = self.memory.get(Gpa::new(block));
                if block[..4] == [0; 4] {
                    At::Rest
                } else {
                    self.read(&block);
                    At::Copied
                }
            }
            At::Copied => {
                self.memory.put(place().block(), &[0; 4]);
                At::Cleared
            }
            At::Cleared => {
                let register = place().read_ack();
                let value = u64::from_le_bytes(self.memory.get(register));
                // Preserve !1, write 1.
                self.memory.put(register, &(value & !1 | 1).to_le_bytes());
                At::Rest
            }
        };
    }

    /// A poll from beginning to end.
    pub(crate) fn poll(&mut self) {
        self.step();
        while self.at != At::Rest {
            self.step();
        }
    }

    fn read(&mut self, bytes: &[u8]) {
        let block = StatusBlock::read(bytes).expect("a guest never sees half a record");
        block.check().expect("nor one of which a part is missing");
        for entry in block.entries() {
            let Ok(Section::Memory(memory)) = entry.unwrap().section else {
                panic!("a section that Linux does not act on");
            };
            let address = memory.physical_address().expect("a frame");
            self.heard.push(Gpa::new(address));
        }
    }
}
