//! What kind of error it was, in the words of the component that saw it (UEFI 2.10, N.2.10 Error
//! Status).

/// The error status of a memory section.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ErrorStatus(pub u64);

/// The booleans of an error status, by the names of the JSON form and from bit 16.
pub const SIGNALS: [&str; 7] = [
    "addressSignal",
    "controlSignal",
    "dataSignal",
    "detectedByResponder",
    "detectedByRequester",
    "firstError",
    "overflowDroppedLogs",
];

/// Types of errors: value, name in the specification, meaning.
const TYPES: &[(u8, &str, &str)] = &[
    (
        1,
        "ERR_INTERNAL",
        "Error detected internal to the component.",
    ),
    (4, "ERR_MEM", "Storage error in memory (DRAM)."),
    (5, "ERR_TLB", "Storage error in TLB."),
    (6, "ERR_CACHE", "Storage error in cache."),
    (7, "ERR_FUNCTION", "Error in one or more functional units."),
    (8, "ERR_SELFTEST", "Component failed self test."),
    (9, "ERR_FLOW", "Overflow or underflow of internal queue."),
    (16, "ERR_BUS", "Error detected in the bus."),
    (
        17,
        "ERR_MAP",
        "Virtual address not found on IO-TLB or IO-PDIR.",
    ),
    (18, "ERR_IMPROPER", "Improper access error."),
    (
        19,
        "ERR_UNIMPL",
        "Access to a memory address which is not mapped to any component.",
    ),
    (20, "ERR_LOL", "Loss of lockstep."),
    (
        21,
        "ERR_RESPONSE",
        "Response not associated with a request.",
    ),
    (22, "ERR_PARITY", "Bus parity error."),
    (23, "ERR_PROTOCOL", "Detection of a protocol error."),
    (24, "ERR_ERROR", "Detection of a PATH_ERROR."),
    (25, "ERR_TIMEOUT", "Bus operation timeout."),
    (
        26,
        "ERR_POISONED",
        "A read was issued to data that has been poisoned.",
    ),
];

impl ErrorStatus {
    /// The type of the error: bits 15:8.
    pub const fn error_type(self) -> u8 {
        (self.0 >> 8) as u8
    }

    /// The name of the type in the specification; `None` where it is reserved.
    pub fn name(self) -> Option<&'static str> {
        self.entry().map(|(_, name, _)| *name)
    }

    /// What the type means; `None` where it is reserved.
    pub fn meaning(self) -> Option<&'static str> {
        self.entry().map(|(_, _, meaning)| *meaning)
    }

    /// One of the [`SIGNALS`], by its place there.
    pub const fn signal(self, place: usize) -> bool {
        self.0 >> (16 + place as u32) & 1 != 0
    }

    fn entry(self) -> Option<&'static (u8, &'static str, &'static str)> {
        TYPES.iter().find(|(value, ..)| *value == self.error_type())
    }
}
