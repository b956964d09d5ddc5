//! A guest whose vCPUs use all of their memory: each checks and rewrites the words of its own part,
//! over and over, for a time that it is given. How many it gets done says what its memory is worth.
//!
//! Each word holds its own address and, in the upper half, the number of the pass that wrote it.
//!
//! All of this happens in user mode, as a guest's programs use memory: some hypervisors emulate what
//! a guest that is not their own does in kernel mode, instruction by instruction.

use std::arch::global_asm;
use std::ops::Range;

use pagemend::{Gpa, GuardError};

use super::code_between;
use crate::memory::Ram;

/// What is to be done. Everything from here on to [`FREE`] is the guest's own.
const PARAMETERS: Gpa = Gpa::new(0x20_0000);
/// Where the list of phases begins, in the parameters, and how long an entry is.
const PHASES: u64 = 64;
const PHASE: u64 = 16;
/// A page for each vCPU: where it is, and from [`RESULTS`] on what it has done.
const STATES: Gpa = Gpa::new(0x20_1000);
const STATE: u64 = 0x1000;
const RESULTS: u64 = 64;
const RESULT: u64 = 32;
/// The end of the page is a stack.
const STACK: u64 = 64;
/// The ranges of memory that vCPUs work on, one list after another.
const LISTS: Gpa = Gpa::new(0x21_0000);
/// Memory from here on is not used by the guest itself.
pub const FREE: Gpa = Gpa::new(0x40_0000);
/// Ranges that there is room for, those of all vCPUs together.
pub const MAX_RANGES: u64 = (FREE.get() - LISTS.get()) / 16;
/// Phases that there is room for.
pub const MAX_PHASES: usize = ((STATE - RESULTS - STACK) / RESULT) as usize;

/// What is done with each word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Its value is checked, and the next one written.
    Both,
    /// Its value is checked.
    Reads,
    /// The next value is written.
    Writes,
}

/// What a vCPU has done in a phase.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Work {
    /// Words that it has got done.
    pub words: u64,
    /// How long it took, in ticks of the guest's time stamp counter.
    pub ticks: u64,
    /// Values that were not what had been written.
    pub wrong: u64,
}

/// The guest: a [`Payload::Flat`](crate::Payload::Flat).
pub fn code() -> Vec<u8> {
    code_between!(pagemend_memcycler_start, pagemend_memcycler_end)
}

/// Writes the values that the guest expects to find into the words of `range`.
///
/// # Errors
///
/// Where they are in memory that has failed.
pub fn fill(ram: &Ram, range: Range<u64>) -> Result<(), GuardError> {
    const AT_ONCE: u64 = 2 << 20;
    let mut bytes = Vec::with_capacity(AT_ONCE as usize);
    for start in range.clone().step_by(AT_ONCE as usize) {
        bytes.clear();
        let end = range.end.min(start + AT_ONCE);
        bytes.extend((start..end).step_by(8).flat_map(u64::to_le_bytes));
        ram.write(Gpa::new(start), &bytes)?;
    }
    Ok(())
}

/// Tells a guest that has not been started what each vCPU is to work on, every word or one every
/// `step` bytes, and what to do in each phase and for how many ticks. All ranges together hold what
/// [`fill`] has written.
///
/// # Errors
///
/// Where that is to be written to memory that has failed.
///
/// # Panics
///
/// If there are more than [`MAX_RANGES`] or [`MAX_PHASES`], no range for a vCPU, or a step that is
/// not of whole words.
pub fn set(
    ram: &Ram,
    ranges: &[Vec<Range<u64>>],
    step: u64,
    phases: &[(Access, u64)],
) -> Result<(), GuardError> {
    let count: usize = ranges.iter().map(Vec::len).sum();
    assert!(count as u64 <= MAX_RANGES, "{count} ranges are too many");
    assert!(phases.len() <= MAX_PHASES, "too many phases");
    assert!(step > 0 && step.is_multiple_of(8), "no whole words");
    let put = |at: u64, words: &[u64]| {
        let bytes: Vec<u8> = words.iter().copied().flat_map(u64::to_le_bytes).collect();
        ram.write(Gpa::new(at), &bytes)
    };
    let mut list = LISTS.get();
    for (vcpu, ranges) in (0..).zip(ranges) {
        assert!(!ranges.is_empty(), "nothing to do for vCPU {vcpu}");
        let ends: Vec<u64> = ranges
            .iter()
            .flat_map(|range| [range.start, range.end])
            .collect();
        put(list, &ends)?;
        put(STATES.get() + vcpu * STATE, &[list, ranges.len() as u64])?;
        list += ends.len() as u64 * 8;
    }
    for (number, (access, ticks)) in (0..).zip(phases) {
        let access = match access {
            Access::Both => BOTH,
            Access::Reads => READS,
            Access::Writes => WRITES,
        };
        put(
            PARAMETERS.get() + PHASES + number * PHASE,
            &[access, *ticks],
        )?;
    }
    let vcpus = ranges.len() as u64;
    put(PARAMETERS.get(), &[vcpus, 0, phases.len() as u64, step])
}

/// What each vCPU of a guest that has ended has done, phase by phase.
///
/// # Errors
///
/// Where that is in memory that has failed.
pub fn work(ram: &Ram, vcpus: u8, phases: usize) -> Result<Vec<Vec<Work>>, GuardError> {
    (0..u64::from(vcpus))
        .map(|vcpu| {
            let mut bytes = vec![0; phases * RESULT as usize];
            ram.read(Gpa::new(STATES.get() + vcpu * STATE + RESULTS), &mut bytes)?;
            let results = bytes.as_chunks::<{ RESULT as usize }>().0.iter();
            Ok(results
                .map(|result| {
                    let word = |at: usize| {
                        u64::from_le_bytes(*result[8 * at..].first_chunk().expect("eight bytes"))
                    };
                    Work {
                        words: word(0),
                        ticks: word(1),
                        wrong: word(2),
                    }
                })
                .collect())
        })
        .collect()
}

const BOTH: u64 = 0;
const READS: u64 = 1;
const WRITES: u64 = 2;

global_asm!(
    ".pushsection .rodata.pagemend_memcycler, \"a\", @progbits",
    ".global pagemend_memcycler_start",
    ".global pagemend_memcycler_end",
    "pagemend_memcycler_start:",
    // RBX: this vCPU's state: list, ranges, next range to write, pass times 2^32, next range to
    // read. RBP: the parameters: vCPUs, arrivals, phases, step. R12: the phase.
    "    mov rbx, rdi",
    "    shl rbx, 12",
    "    add rbx, {states}",
    // To user mode, where ports can be used (I/O privilege level 3; the flag's bit 1 is always set).
    "    lea rsp, [rbx + {state}]",
    "    push {user_data}",
    "    push rsp",
    "    push 0x3002",
    "    push {user_code}",
    "    lea rax, [rip + 5f]",
    "    push rax",
    "    iretq",
    "5:  mov rbp, {parameters}",
    "    xor r12d, r12d",
    // All begin a phase together, and end the last.
    "10: lock inc qword ptr [rbp + 8]",
    "    lea rax, [r12 + 1]",
    "    imul rax, qword ptr [rbp]",
    "11: pause",
    "    cmp qword ptr [rbp + 8], rax",
    "    jb 11b",
    "    cmp r12, qword ptr [rbp + 16]",
    "    jae 90f",
    // R13: what to do. R10 and R11: words done, and wrong ones. R15: the beginning. R9: the step.
    "    mov r13, r12",
    "    shl r13, 4",
    "    lea r13, [rbp + r13 + {phases}]",
    "    xor r10d, r10d",
    "    xor r11d, r11d",
    "    mov r9, qword ptr [rbp + 24]",
    "    rdtsc",
    "    shl rdx, 32",
    "    lea r15, [rdx + rax]",
    // A range: from RSI to RDI, with the value RDX for the first word.
    "20: mov rdx, qword ptr [rbx + 24]",
    "    mov rcx, qword ptr [rbx + 16]",
    "    cmp qword ptr [r13], {reads}",
    "    jne 22f",
    // What was written in this pass already is one pass ahead.
    "    mov rax, qword ptr [rbx + 32]",
    "    cmp rax, rcx",
    "    mov rcx, rax",
    "    jae 22f",
    "    mov rax, 1 << 32",
    "    add rdx, rax",
    "22: mov rax, rcx",
    "    shl rax, 4",
    "    add rax, qword ptr [rbx]",
    "    mov rsi, qword ptr [rax]",
    "    mov rdi, qword ptr [rax + 8]",
    "    add rdx, rsi",
    "    inc rcx",
    "    cmp rcx, qword ptr [rbx + 8]",
    "    jb 23f",
    "    xor ecx, ecx",
    "23: mov r8, 1 << 32",
    "    cmp qword ptr [r13], {reads}",
    "    je 40f",
    "    mov qword ptr [rbx + 16], rcx",
    "    test rcx, rcx",
    "    jnz 24f",
    "    add qword ptr [rbx + 24], r8",
    "24: cmp qword ptr [r13], {writes}",
    "    je 50f",
    // Both.
    "30: cmp qword ptr [rsi], rdx",
    "    jne 32f",
    "31: lea rax, [rdx + r8]",
    "    mov qword ptr [rsi], rax",
    "    inc r10",
    "    add rdx, r9",
    "    add rsi, r9",
    "    cmp rsi, rdi",
    "    jb 30b",
    "    jmp 60f",
    "32: inc r11",
    "    jmp 31b",
    // Reads.
    "40: mov qword ptr [rbx + 32], rcx",
    "41: cmp qword ptr [rsi], rdx",
    "    jne 43f",
    "42: inc r10",
    "    add rdx, r9",
    "    add rsi, r9",
    "    cmp rsi, rdi",
    "    jb 41b",
    "    jmp 60f",
    "43: inc r11",
    "    jmp 42b",
    // Writes.
    "50: lea rax, [rdx + r8]",
    "    mov qword ptr [rsi], rax",
    "    inc r10",
    "    add rdx, r9",
    "    add rsi, r9",
    "    cmp rsi, rdi",
    "    jb 50b",
    // Until the time is over.
    "60: rdtsc",
    "    shl rdx, 32",
    "    add rax, rdx",
    "    sub rax, r15",
    "    cmp rax, qword ptr [r13 + 8]",
    "    jb 20b",
    "    mov rcx, r12",
    "    shl rcx, 5",
    "    lea rcx, [rbx + rcx + {results}]",
    "    mov qword ptr [rcx], r10",
    "    mov qword ptr [rcx + 8], rax",
    "    mov qword ptr [rcx + 16], r11",
    "    inc r12",
    "    jmp 10b",
    // Off.
    "90: mov edx, {sleep_control}",
    "    mov al, {off}",
    "    out dx, al",
    "91: pause",
    "    jmp 91b",
    "pagemend_memcycler_end:",
    ".popsection",
    states = const STATES.get(),
    state = const STATE,
    user_data = const crate::boot::USER_DATA,
    user_code = const crate::boot::USER_CODE,
    parameters = const PARAMETERS.get(),
    phases = const PHASES,
    results = const RESULTS,
    reads = const READS,
    writes = const WRITES,
    sleep_control = const crate::devices::power::SLEEP_CONTROL,
    off = const crate::devices::power::OFF,
);

const _: () = assert!(PHASE == 1 << 4 && RESULT == 1 << 5 && STATE == 1 << 12);
const _: () = assert!(STATES.get() + STATE * crate::config::MAX_VCPUS as u64 <= LISTS.get());
const _: () = assert!(PHASES + PHASE * MAX_PHASES as u64 <= STATE);
