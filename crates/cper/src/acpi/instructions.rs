//! ERST and EINJ: tables of instructions, which the operating system carries out to have an action done
//! (ACPI 6.5, 18.5 and 18.6).

use zerocopy::little_endian::{U32, U64};

use super::gas::GenericAddress;
use super::table::TableHeader;
use crate::error::Error;
use crate::input::Input;
use crate::wire::wire;

wire! {
    /// One instruction (ACPI 6.5, tables 18.19 and 18.25).
    pub struct Instruction: 32 {
        /// The action that it belongs to.
        pub action: u8,
        /// What to do with the register.
        pub instruction: u8,
        /// Bit 0: keep the bits that the mask leaves out.
        pub flags: u8,
        /// Zero.
        pub reserved: u8,
        /// The register.
        pub register: GenericAddress,
        /// What it is compared with or set to.
        pub value: U64,
        /// The bits of it that count.
        pub mask: U64,
    }
}

const ERST_ACTIONS: [&str; 17] = [
    "begin write operation",
    "begin read operation",
    "begin clear operation",
    "end operation",
    "set record offset",
    "execute operation",
    "check busy status",
    "get command status",
    "get record identifier",
    "set record identifier",
    "get record count",
    "begin dummy write operation",
    "",
    "get error log address range",
    "get error log address range length",
    "get error log address range attributes",
    "get execute operation timings",
];
const EINJ_ACTIONS: [&str; 10] = [
    "begin injection operation",
    "get trigger error action table",
    "set error type",
    "get error type",
    "end operation",
    "execute operation",
    "check busy status",
    "get command status",
    "set error type with address",
    "get execute operation timings",
];
const ERST_INSTRUCTIONS: [&str; 19] = [
    "read register",
    "read register value",
    "write register",
    "write register value",
    "no operation",
    "load var1",
    "load var2",
    "store var1",
    "add",
    "subtract",
    "add value",
    "subtract value",
    "stall",
    "stall while true",
    "skip next instruction if true",
    "go to",
    "set source address base",
    "set destination address base",
    "move data",
];

/// An ERST or EINJ, seen where it lies.
#[derive(Debug, Clone, Copy)]
pub struct InstructionTable<'a> {
    /// What it starts with.
    pub header: &'a TableHeader,
    /// Its instructions, in order.
    pub instructions: &'a [Instruction],
}

impl<'a> InstructionTable<'a> {
    /// Both tables have 12 bytes before the instructions, of which the last four count them. The first
    /// four are their length, which firmware counts in two ways; Linux takes either
    /// (drivers/acpi/apei/erst.c, `erst_check_table`).
    fn read(
        header: &'a TableHeader,
        mut body: Input<'a>,
        what: &'static str,
    ) -> Result<Self, Error> {
        let [_, _, count]: &[U32; 3] = body.take(what)?;
        let instructions = body.take_many(count.get() as usize, "instructions")?;
        Ok(Self {
            header,
            instructions,
        })
    }

    pub(super) fn read_erst(header: &'a TableHeader, body: Input<'a>) -> Result<Self, Error> {
        Self::read(header, body, "the serialization header")
    }

    pub(super) fn read_einj(header: &'a TableHeader, body: Input<'a>) -> Result<Self, Error> {
        Self::read(header, body, "the injection header")
    }

    /// What an instruction's action is; `None` where it is reserved.
    pub fn action_name(&self, instruction: &Instruction) -> Option<&'static str> {
        let names: &[&str] = match &self.header.signature {
            b"EINJ" => &EINJ_ACTIONS,
            _ => &ERST_ACTIONS,
        };
        name(names, instruction.action)
    }

    /// What an instruction does; `None` where it is reserved.
    pub fn instruction_name(&self, instruction: &Instruction) -> Option<&'static str> {
        let known = match &self.header.signature {
            b"EINJ" => 5,
            _ => ERST_INSTRUCTIONS.len(),
        };
        name(&ERST_INSTRUCTIONS[..known], instruction.instruction)
    }
}

fn name(names: &[&'static str], number: u8) -> Option<&'static str> {
    let name = names.get(usize::from(number)).copied();
    name.filter(|name| !name.is_empty())
}
