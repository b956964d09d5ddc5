//! Syndromes: what ESR_ELx says of an abort or an SError (Arm Architecture Reference Manual, ESR_EL1;
//! arch/arm64/include/asm/esr.h).

/// The classes that matter here: bits 31:26.
const INSTRUCTION_ABORT_LOWER: u64 = 0x20;
const INSTRUCTION_ABORT_SAME: u64 = 0x21;
const DATA_ABORT_LOWER: u64 = 0x24;
const DATA_ABORT_SAME: u64 = 0x25;
const SERROR: u64 = 0x2f;

const CLASS: u32 = 26;
/// IL: the instruction had 32 bits.
const LONG_INSTRUCTION: u64 = 1 << 25;
/// The specific syndrome: bits 24:0.
const ISS: u64 = (1 << 25) - 1;

// Of an abort.
const SET: u32 = 11;
const FAR_NOT_VALID: u64 = 1 << 10;
const EXTERNAL: u64 = 1 << 9;
const WALK_OF_STAGE_1: u64 = 1 << 7;
const WRITE: u64 = 1 << 6;
const FAULT: u64 = 0x3f;

// Of an SError.
const IMPLEMENTATION_DEFINED: u64 = 1 << 24;
const AET: u32 = 10;
const ASYNCHRONOUS: u64 = 0x11;

/// A syndrome, by its class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Syndrome {
    /// A load or store failed.
    DataAbort(Abort),
    /// An instruction could not be fetched.
    InstructionAbort(Abort),
    /// An error that no instruction can be blamed for.
    SError(SError),
    /// Anything else: the number.
    Other(u64),
}

/// What an abort's syndrome says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Abort {
    /// Whether it came from the exception level that takes it, and not from a lower one.
    pub same_level: bool,
    /// What failed.
    pub fault: Fault,
    /// How far the processor's state can be relied on; means something with the RAS extension only.
    pub state: ErrorState,
    /// Whether FAR holds the address.
    pub far_valid: bool,
    /// Implementation-defined: which kind of external abort.
    pub external_type: bool,
    /// Whether it was the walk of the guest's own page tables that failed, for a stage 2 abort.
    pub stage_1_walk: bool,
    /// Whether it was a write.
    pub write: bool,
    /// Bits 24:12 but SET, which say more of the instruction: kept as they are.
    pub instruction: u64,
}

/// What failed (DFSC or IFSC, bits 5:0).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Fault {
    /// The access itself: a synchronous external abort.
    External,
    /// The walk of the page tables, at this level, -1 to 3.
    ExternalOnWalk(i8),
    /// A parity or ECC error on the access.
    Parity,
    /// A parity or ECC error on the walk of the page tables, at this level, -1 to 3.
    ParityOnWalk(i8),
    /// Another fault: translation, permission, alignment.
    Other(u8),
}

/// How far the processor's state can be relied on after a synchronous abort (SET, bits 12:11).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorState {
    /// 0: recoverable, if what failed is dealt with.
    Recoverable,
    /// 2: uncontainable.
    Uncontainable,
    /// 3: restartable, nothing was damaged.
    Restartable,
    /// 1: reserved.
    Reserved,
}

/// What an SError's syndrome says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SError {
    /// An error of a state that the architecture defines.
    Known(SErrorState),
    /// An error of which nothing is said.
    Uncategorized,
    /// What the processor's maker defines: bits 23:0.
    ImplementationDefined(u32),
    /// Anything else: bits 24:0.
    Other(u32),
}

/// How far the processor's state can be relied on after an SError (AET, bits 12:10).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SErrorState {
    /// 0: uncontainable.
    Uncontainable,
    /// 1: unrecoverable.
    Unrecoverable,
    /// 2: restartable.
    Restartable,
    /// 3: recoverable.
    Recoverable,
    /// 6: corrected.
    Corrected,
}

impl Syndrome {
    /// What a syndrome says.
    pub fn decode(esr: u64) -> Self {
        let abort = |same_level| Abort::decode(esr & ISS, same_level);
        match esr >> CLASS & 0x3f {
            DATA_ABORT_LOWER => Self::DataAbort(abort(false)),
            DATA_ABORT_SAME => Self::DataAbort(abort(true)),
            INSTRUCTION_ABORT_LOWER => Self::InstructionAbort(abort(false)),
            INSTRUCTION_ABORT_SAME => Self::InstructionAbort(abort(true)),
            SERROR => Self::SError(SError::decode(esr & ISS)),
            _ => Self::Other(esr),
        }
    }

    /// The syndrome that says this, for an instruction of 32 bits.
    pub fn encode(self) -> u64 {
        let class = |class: u64, iss: u64| class << CLASS | LONG_INSTRUCTION | iss;
        match self {
            Self::DataAbort(abort) if abort.same_level => class(DATA_ABORT_SAME, abort.iss()),
            Self::DataAbort(abort) => class(DATA_ABORT_LOWER, abort.iss()),
            Self::InstructionAbort(abort) if abort.same_level => {
                class(INSTRUCTION_ABORT_SAME, abort.iss())
            }
            Self::InstructionAbort(abort) => class(INSTRUCTION_ABORT_LOWER, abort.iss()),
            Self::SError(error) => class(SERROR, error.iss()),
            Self::Other(esr) => esr,
        }
    }
}

impl Abort {
    /// What an access to memory that is lost looks like from a lower exception level: a synchronous
    /// external abort, recoverable, with or without an address in FAR.
    pub const fn external(write: bool, far_valid: bool) -> Self {
        Self {
            same_level: false,
            fault: Fault::External,
            state: ErrorState::Recoverable,
            far_valid,
            external_type: false,
            stage_1_walk: false,
            write,
            instruction: 0,
        }
    }

    /// Bits 24:12 but SET.
    const INSTRUCTION: u64 = ISS & !0xfff & !(3 << SET);
    /// CM, bit 8, goes with them.
    const CACHE_MAINTENANCE: u64 = 1 << 8;

    fn decode(iss: u64, same_level: bool) -> Self {
        Self {
            same_level,
            fault: Fault::decode((iss & FAULT) as u8),
            state: ErrorState::decode(iss >> SET & 3),
            far_valid: iss & FAR_NOT_VALID == 0,
            external_type: iss & EXTERNAL != 0,
            stage_1_walk: iss & WALK_OF_STAGE_1 != 0,
            write: iss & WRITE != 0,
            instruction: iss & (Self::INSTRUCTION | Self::CACHE_MAINTENANCE),
        }
    }

    /// Bits 24:0 of the syndrome.
    pub fn iss(self) -> u64 {
        let bit = |set: bool, bit: u64| if set { bit } else { 0 };
        self.instruction & (Self::INSTRUCTION | Self::CACHE_MAINTENANCE)
            | self.state.bits() << SET
            | bit(!self.far_valid, FAR_NOT_VALID)
            | bit(self.external_type, EXTERNAL)
            | bit(self.stage_1_walk, WALK_OF_STAGE_1)
            | bit(self.write, WRITE)
            | u64::from(self.fault.bits())
    }
}

impl Fault {
    /// Whether memory, and not its description in page tables, is what failed: Linux's
    /// `ESR_ELx_FSC_EXTABT` and its kin.
    pub const fn is_external(self) -> bool {
        !matches!(self, Self::Other(_))
    }

    const fn decode(bits: u8) -> Self {
        match bits {
            0x10 => Self::External,
            0x13..=0x17 => Self::ExternalOnWalk(bits as i8 - 0x14),
            0x18 => Self::Parity,
            0x1b..=0x1f => Self::ParityOnWalk(bits as i8 - 0x1c),
            other => Self::Other(other),
        }
    }

    /// Bits 5:0. A level that does not exist gives the bits of level -1 or 3, whichever is nearer.
    fn bits(self) -> u8 {
        let level = |level: i8| level.clamp(-1, 3);
        match self {
            Self::External => 0x10,
            Self::ExternalOnWalk(at) => (0x14 + level(at)) as u8,
            Self::Parity => 0x18,
            Self::ParityOnWalk(at) => (0x1c + level(at)) as u8,
            Self::Other(other) => other & FAULT as u8,
        }
    }
}

impl ErrorState {
    const fn decode(bits: u64) -> Self {
        match bits {
            0 => Self::Recoverable,
            2 => Self::Uncontainable,
            3 => Self::Restartable,
            _ => Self::Reserved,
        }
    }

    const fn bits(self) -> u64 {
        match self {
            Self::Recoverable => 0,
            Self::Reserved => 1,
            Self::Uncontainable => 2,
            Self::Restartable => 3,
        }
    }
}

impl SError {
    fn decode(iss: u64) -> Self {
        if iss & IMPLEMENTATION_DEFINED != 0 {
            return Self::ImplementationDefined((iss & !IMPLEMENTATION_DEFINED) as u32);
        }
        let state = match iss >> AET & 7 {
            0 => SErrorState::Uncontainable,
            1 => SErrorState::Unrecoverable,
            2 => SErrorState::Restartable,
            3 => SErrorState::Recoverable,
            6 => SErrorState::Corrected,
            _ => return Self::Other(iss as u32),
        };
        match iss & !(7 << AET) {
            ASYNCHRONOUS => Self::Known(state),
            0 if iss == 0 => Self::Uncategorized,
            _ => Self::Other(iss as u32),
        }
    }

    /// Bits 24:0 of the syndrome.
    pub fn iss(self) -> u64 {
        match self {
            Self::Known(state) => state.bits() << AET | ASYNCHRONOUS,
            Self::Uncategorized => 0,
            Self::ImplementationDefined(bits) => IMPLEMENTATION_DEFINED | u64::from(bits) & ISS,
            Self::Other(bits) => u64::from(bits) & ISS,
        }
    }
}

impl SErrorState {
    const fn bits(self) -> u64 {
        match self {
            Self::Uncontainable => 0,
            Self::Unrecoverable => 1,
            Self::Restartable => 2,
            Self::Recoverable => 3,
            Self::Corrected => 6,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_abort_for_lost_memory_is_the_one_that_kvm_reports() {
        // arch/arm64/kvm: data abort from a lower level, DFSC 0x10.
        let abort = Syndrome::DataAbort(Abort::external(false, true));
        assert_eq!(abort.encode(), 0x9200_0010);
        let abort = Syndrome::DataAbort(Abort::external(true, false));
        assert_eq!(abort.encode(), 0x9200_0450);
    }

    #[test]
    fn external_faults_are_told_from_those_of_page_tables() {
        let external = |bits| Fault::decode(bits).is_external();
        assert!(
            [0x10, 0x13, 0x17, 0x18, 0x1b, 0x1f]
                .into_iter()
                .all(external)
        );
        assert!(
            ![0x04, 0x0f, 0x11, 0x12, 0x19, 0x21]
                .into_iter()
                .any(external)
        );
        assert_eq!(Fault::decode(0x13), Fault::ExternalOnWalk(-1));
        assert_eq!(Fault::decode(0x17), Fault::ExternalOnWalk(3));
    }

    #[test]
    fn an_serror_says_how_bad_it_is() {
        let recoverable = Syndrome::SError(SError::Known(SErrorState::Recoverable));
        assert_eq!(recoverable.encode(), 0xbe00_0c11);
        assert_eq!(
            Syndrome::decode(0xbe00_0000),
            Syndrome::SError(SError::Uncategorized)
        );
        let own = Syndrome::SError(SError::ImplementationDefined(0xab));
        assert_eq!(Syndrome::decode(0xbf00_00ab), own);
    }

    proptest! {
        #[test]
        fn no_syndrome_is_changed_by_reading_it(class in 0_u64..64, iss in 0..=ISS) {
            let esr = class << CLASS | LONG_INSTRUCTION | iss;
            prop_assert_eq!(Syndrome::decode(esr).encode(), esr);
        }
    }
}
