//! Which registers a context information structure holds, by its type.

use core::iter;

/// Registers as they lie behind one another: name, that of the JSON form, and bytes. Bytes that
/// belong to none have an empty name.
pub type Layout = &'static [(&'static str, usize)];

/// What a type of register context is called and holds; no layout where the bytes are only bytes.
pub type ContextType = (&'static str, Option<Layout>);

/// Register contexts of ARM processors, by type (UEFI 2.10, table N.25).
pub const ARM_CONTEXTS: [ContextType; 9] = [
    ("AArch32 General Purpose Registers", Some(AARCH32_GPR)),
    ("AArch32 EL1 Context Registers", Some(AARCH32_EL1)),
    ("AArch32 EL2 Context Registers", Some(AARCH32_EL2)),
    ("AArch32 Secure Context Registers", Some(AARCH32_SECURE)),
    ("AArch64 General Purpose Registers", Some(AARCH64_GPR)),
    ("AArch64 EL1 Context Registers", Some(AARCH64_EL1)),
    ("AArch64 EL2 Context Registers", Some(AARCH64_EL2)),
    ("AArch64 EL3 Context Registers", Some(AARCH64_EL3)),
    ("Miscellaneous System Register Structure", None),
];

/// Register contexts of IA32 and x64 processors, by type (UEFI 2.10, table N.16).
pub const X86_CONTEXTS: [ContextType; 8] = [
    ("Unclassified Data", None),
    ("MSR Registers", None),
    ("32-bit Mode Execution Context", Some(IA32)),
    ("64-bit Mode Execution Context", Some(X64)),
    ("FXSave Context", None),
    ("32-bit Mode Debug Registers", None),
    ("64-bit Mode Debug Registers", None),
    ("Memory Mapper Registers", None),
];

/// The registers of an ARM context that has at least as many bytes as they take.
pub fn arm_layout(context_type: u16, bytes: usize) -> Option<Layout> {
    layout(&ARM_CONTEXTS, context_type, bytes)
}

/// The registers of an IA32 or x64 context that has at least as many bytes as they take.
pub fn x86_layout(context_type: u16, bytes: usize) -> Option<Layout> {
    layout(&X86_CONTEXTS, context_type, bytes)
}

fn layout(contexts: &[ContextType], context_type: u16, bytes: usize) -> Option<Layout> {
    let (_, layout) = contexts.get(usize::from(context_type))?;
    layout.filter(|layout| bytes >= size(layout))
}

/// Bytes that registers take.
pub fn size(layout: Layout) -> usize {
    layout.iter().map(|(_, bytes)| bytes).sum()
}

/// Registers by name with their values, from bytes that are as many as they take.
pub fn values(layout: Layout, bytes: &[u8]) -> impl Iterator<Item = (&'static str, u64)> {
    let mut rest = bytes;
    let mut registers = layout.iter();
    iter::from_fn(move || {
        loop {
            let (name, width) = registers.next()?;
            let (register, after) = rest.split_at_checked(*width)?;
            rest = after;
            if !name.is_empty() {
                let value = register
                    .iter()
                    .rev()
                    .fold(0, |value, byte| value << 8 | u64::from(*byte));
                return Some((*name, value));
            }
        }
    })
}

const fn uniform<const COUNT: usize>(
    bytes: usize,
    names: [&'static str; COUNT],
) -> [(&'static str, usize); COUNT] {
    let mut registers = [("", bytes); COUNT];
    let mut place = 0;
    while place < COUNT {
        registers[place].0 = names[place];
        place += 1;
    }
    registers
}

const AARCH32_GPR: Layout = &uniform(
    4,
    [
        "r0", "r1", "r2", "r3", "r4", "r5", "r6", "r7", "r8", "r9", "r10", "r11", "r12", "r13_sp",
        "r14_lr", "r15_pc",
    ],
);
const AARCH32_EL1: Layout = &uniform(
    4,
    [
        "dfar", "dfsr", "ifar", "isr", "mair0", "mair1", "midr", "mpidr", "nmrr", "prrr",
        "sctlr_ns", "spsr", "spsr_abt", "spsr_fiq", "spsr_irq", "spsr_svc", "spsr_und", "tpidrprw",
        "tpidruro", "tpidrurw", "ttbcr", "ttbr0", "ttbr1", "dacr",
    ],
);
const AARCH32_EL2: Layout = &uniform(
    4,
    [
        "elr_hyp",
        "hamair0",
        "hamair1",
        "hcr",
        "hcr2",
        "hdfar",
        "hifar",
        "hpfar",
        "hsr",
        "htcr",
        "htpidr",
        "httbr",
        "spsr_hyp",
        "vtcr",
        "vttbr",
        "dacr32_el2",
    ],
);
const AARCH32_SECURE: Layout = &uniform(4, ["sctlr_s", "spsr_mon"]);
const AARCH64_GPR: Layout = &uniform(
    8,
    [
        "x0", "x1", "x2", "x3", "x4", "x5", "x6", "x7", "x8", "x9", "x10", "x11", "x12", "x13",
        "x14", "x15", "x16", "x17", "x18", "x19", "x20", "x21", "x22", "x23", "x24", "x25", "x26",
        "x27", "x28", "x29", "x30", "sp",
    ],
);
const AARCH64_EL1: Layout = &uniform(
    8,
    [
        "elr_el1",
        "esr_el1",
        "far_el1",
        "isr_el1",
        "mair_el1",
        "midr_el1",
        "mpidr_el1",
        "sctlr_el1",
        "sp_el0",
        "sp_el1",
        "spsr_el1",
        "tcr_el1",
        "tpidr_el0",
        "tpidr_el1",
        "tpidrro_el0",
        "ttbr0_el1",
        "ttbr1_el1",
    ],
);
const AARCH64_EL2: Layout = &uniform(
    8,
    [
        "elr_el2",
        "esr_el2",
        "far_el2",
        "hacr_el2",
        "hcr_el2",
        "hpfar_el2",
        "mair_el2",
        "sctlr_el2",
        "sp_el2",
        "spsr_el2",
        "tcr_el2",
        "tpidr_el2",
        "ttbr0_el2",
        "vtcr_el2",
        "vttbr_el2",
    ],
);
const AARCH64_EL3: Layout = &uniform(
    8,
    [
        "elr_el3",
        "esr_el3",
        "far_el3",
        "mair_el3",
        "sctlr_el3",
        "sp_el3",
        "spsr_el3",
        "tcr_el3",
        "tpidr_el3",
        "ttbr0_el3",
    ],
);
const IA32: Layout = &[
    ("eax", 4),
    ("ebx", 4),
    ("ecx", 4),
    ("edx", 4),
    ("esi", 4),
    ("edi", 4),
    ("ebp", 4),
    ("esp", 4),
    ("cs", 2),
    ("ds", 2),
    ("ss", 2),
    ("es", 2),
    ("fs", 2),
    ("gs", 2),
    ("eflags", 4),
    ("eip", 4),
    ("cr0", 4),
    ("cr1", 4),
    ("cr2", 4),
    ("cr3", 4),
    ("cr4", 4),
    ("gdtr", 8),
    ("idtr", 8),
    ("ldtr", 2),
    ("tr", 2),
];
const X64: Layout = &[
    ("rax", 8),
    ("rbx", 8),
    ("rcx", 8),
    ("rdx", 8),
    ("rsi", 8),
    ("rdi", 8),
    ("rbp", 8),
    ("rsp", 8),
    ("r8", 8),
    ("r9", 8),
    ("r10", 8),
    ("r11", 8),
    ("r12", 8),
    ("r13", 8),
    ("r14", 8),
    ("r15", 8),
    ("cs", 2),
    ("ds", 2),
    ("ss", 2),
    ("es", 2),
    ("fs", 2),
    ("gs", 2),
    ("", 4),
    ("rflags", 8),
    ("eip", 8),
    ("cr0", 8),
    ("cr1", 8),
    ("cr2", 8),
    ("cr3", 8),
    ("cr4", 8),
    ("cr8", 8),
    ("gdtr_0", 8),
    ("gdtr_1", 8),
    ("idtr_0", 8),
    ("idtr_1", 8),
    ("ldtr", 2),
    ("tr", 2),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contexts_are_as_large_as_the_specification_says() {
        let sizes = [64, 96, 64, 8, 256, 136, 120, 80];
        for ((name, layout), expected) in ARM_CONTEXTS.iter().zip(sizes) {
            assert_eq!(layout.map(size), Some(expected), "{name}");
        }
        assert_eq!((size(IA32), size(X64)), (92, 244));
    }

    #[test]
    fn a_context_that_is_cut_short_is_only_bytes() {
        assert!(x86_layout(3, 244).is_some());
        assert!(x86_layout(3, 243).is_none());
        assert!(arm_layout(9, 1000).is_none());
    }
}
