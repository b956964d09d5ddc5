//! A guest that reads the addresses that it is given, and notes what it read and how long it took,
//! while its other vCPUs do nothing but watch the clock: what a vCPU waits for failed memory, and
//! whether those that do not touch it wait too.
//!
//! The first vCPU works through a [table](set) and switches the machine off. At a machine check
//! that its own read has caused it notes the address that it was told, and goes on with the next
//! entry; others it only [counts](told_meanwhile). It can be made to [sleep](watch) before it goes
//! on, so that the other vCPUs are watched for a time that does not depend on the read.

use std::arch::global_asm;

use pagemend::{Gpa, GuardError};

use super::code_between;
use crate::memory::Ram;

/// Where the guest expects what it is to do, and leaves what it found. Everything from here on to
/// [`FREE`] is the guest's own.
const PARAMETERS: Gpa = Gpa::new(0x20_0000);
/// The addresses to read, [`ENTRY`] bytes each.
const TABLE: Gpa = Gpa::new(0x21_0000);
const ENTRY: u64 = 64;
/// A page for each vCPU but the first: what it saw of the clock.
const CLOCKS: Gpa = Gpa::new(0x20_2000);
const CLOCK: u64 = 0x1000;
/// Memory from here on is not used by the guest itself.
pub const FREE: Gpa = Gpa::new(0x40_0000);
/// Addresses that there is room for.
pub const MAX_TOUCHES: u64 = (FREE.get() - TABLE.get()) / ENTRY;
/// Gaps are counted by their number of bits.
pub const BUCKETS: usize = 64;

/// A read that the guest has done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Touch {
    /// The address that it was to read.
    pub gpa: Gpa,
    /// The word that was there; none where the guest was told that it is lost.
    pub value: Option<u64>,
    /// The frame that it was told of by a machine check.
    pub told: Option<Gpa>,
    /// From before the read until after it, or until the machine check, in ticks of the guest's
    /// time stamp counter.
    pub ticks: u64,
    /// The longest time between two readings of the clock by the second vCPU meanwhile, and for as
    /// long as it was to be [watched](watch), in ticks; none where there is no second vCPU.
    pub bystander: Option<u64>,
}

/// What a vCPU saw that did nothing but read the clock.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Clock {
    /// How often it did.
    pub rounds: u64,
    /// How often the time between two readings had so many significant bits.
    pub gaps: [u64; BUCKETS],
}

/// The guest: a [`Payload::Flat`](crate::Payload::Flat).
pub fn code() -> Vec<u8> {
    code_between!(pagemend_touch_start, pagemend_touch_end)
}

/// Tells a guest of `vcpus` that has not been started which addresses to read, and whether it
/// `listens` to machine checks: then it begins to read when it has been told of so many frames.
///
/// # Errors
///
/// Where the table is in memory that has failed.
///
/// # Panics
///
/// If there are more than [`MAX_TOUCHES`].
pub fn set(
    ram: &Ram,
    vcpus: u8,
    listens: Option<u64>,
    addresses: &[Gpa],
) -> Result<(), GuardError> {
    let count = addresses.len() as u64;
    assert!(count <= MAX_TOUCHES, "{count} addresses are too many");
    let table: Vec<u8> = addresses
        .iter()
        .flat_map(|gpa| [gpa.get(), 0, 0, 0, 0, 0, 0, 0])
        .flat_map(u64::to_le_bytes)
        .collect();
    ram.write(TABLE, &table)?;
    let awaited = listens.unwrap_or(0);
    let listens = u64::from(listens.is_some());
    let parameters = [count, u64::from(vcpus) - 1, 0, 0, listens, awaited];
    ram.write(PARAMETERS, &parameters.map(u64::to_le_bytes).concat())
}

/// Has a guest that was told what to read go on to the next address only when so many ticks have
/// passed since it began with this one, for the first `count` of them. It sleeps meanwhile, and
/// leaves its processor to others.
///
/// # Errors
///
/// Where the table is in memory that has failed.
pub fn watch(ram: &Ram, count: usize, ticks: u64) -> Result<(), GuardError> {
    (0..count as u64).try_for_each(|entry| {
        let at = Gpa::new(TABLE.get() + entry * ENTRY + 40);
        ram.write(at, &ticks.to_le_bytes())
    })
}

/// What a guest has done that was told to read `count` addresses, and has ended.
///
/// # Errors
///
/// Where the table is in memory that has failed.
pub fn touches(ram: &Ram, count: usize) -> Result<Vec<Touch>, GuardError> {
    let mut table = vec![0; count * ENTRY as usize];
    ram.read(TABLE, &mut table)?;
    let entries = words(&table);
    let entries = entries.chunks_exact(ENTRY as usize / 8);
    Ok(entries
        .map(|entry| Touch {
            gpa: Gpa::new(entry[0]),
            value: (entry[3] == 0).then_some(entry[1]),
            told: (entry[3] != 0).then_some(Gpa::new(entry[3])),
            ticks: entry[2],
            bystander: (entry[4] != 0).then_some(entry[4]),
        })
        .collect())
}

/// How many machine checks the first vCPU took that no read of its own had caused.
///
/// # Errors
///
/// Where the count is in memory that has failed.
pub fn told_meanwhile(ram: &Ram) -> Result<u64, GuardError> {
    let mut count = [0; 8];
    ram.read(Gpa::new(PARAMETERS.get() + 24), &mut count)?;
    Ok(u64::from_le_bytes(count))
}

/// What the vCPU with this number saw of the clock; the first one has none.
///
/// # Errors
///
/// Where it is in memory that has failed.
///
/// # Panics
///
/// If `vcpu` is 0.
pub fn clock(ram: &Ram, vcpu: u8) -> Result<Clock, GuardError> {
    let page = u64::from(vcpu)
        .checked_sub(1)
        .expect("the first vCPU has no clock");
    let mut bytes = [0; 16 + 8 * BUCKETS];
    ram.read(Gpa::new(CLOCKS.get() + page * CLOCK), &mut bytes)?;
    let words = words(&bytes);
    let mut gaps = [0; BUCKETS];
    gaps.copy_from_slice(&words[2..]);
    Ok(Clock {
        rounds: words[0],
        gaps,
    })
}

fn words(bytes: &[u8]) -> Vec<u64> {
    let words = bytes.chunks_exact(8);
    words
        .map(|word| u64::from_le_bytes(word.try_into().expect("eight bytes")))
        .collect()
}

global_asm!(
    ".pushsection .rodata.pagemend_touch, \"a\", @progbits",
    ".global pagemend_touch_start",
    ".global pagemend_touch_end",
    "pagemend_touch_start:",
    "    test rdi, rdi",
    "    jnz 50f",
    // The first vCPU: a stack below the code, and two interrupt gates, for machine checks (vector
    // 18) and for its timer (32), in a table below the parameters.
    "    mov rsp, {stack}",
    "    lea rax, [rip + 70f]",
    "    mov rbx, {idt} + 18 * 16",
    "1:  mov word ptr [rbx], ax",
    "    mov word ptr [rbx + 2], 0x10", // the code segment
    "    mov word ptr [rbx + 4], 0x8e00", // present, interrupt gate
    "    shr rax, 16",
    "    mov word ptr [rbx + 6], ax",
    "    shr rax, 16",
    "    mov dword ptr [rbx + 8], eax",
    "    mov dword ptr [rbx + 12], 0",
    "    lea rax, [rip + 80f]",
    "    add rbx, 14 * 16",
    "    cmp rbx, {idt} + 32 * 16",
    "    je 1b",
    "    sub rsp, 16",
    "    mov word ptr [rsp], 33 * 16 - 1",
    "    mov rax, {idt}",
    "    mov qword ptr [rsp + 2], rax",
    "    lidt [rsp]",
    "    add rsp, 16",
    // If it is to be told: every bank reports (MCi_CTL), all of them together too (MCG_CTL), and
    // machine checks are on (CR4.MCE).
    "    mov rbp, {parameters}",
    "    cmp qword ptr [rbp + 32], 0",
    "    je 20f",
    "    mov ecx, 0x179", // MCG_CAP: the number of banks, and in bit 8 whether MCG_CTL is there
    "    rdmsr",
    "    movzx r9d, al",
    "    mov r10d, eax",
    "    mov eax, -1",
    "    mov edx, -1",
    "    bt r10d, 8",
    "    jnc 10f",
    "    mov ecx, 0x17b", // MCG_CTL
    "    wrmsr",
    "10: mov ecx, 0x400",  // MC0_CTL, and each bank has four registers
    "11: test r9d, r9d",
    "    jz 12f",
    "    wrmsr",
    "    add ecx, 4",
    "    dec r9d",
    "    jmp 11b",
    "12: mov rax, cr4",
    "    or rax, 0x40",
    "    mov cr4, rax",
    // Wait for what is to be told first, and for the others, which count themselves.
    "13: mov rax, qword ptr [rbp + 24]",
    "    pause",
    "    cmp rax, qword ptr [rbp + 40]",
    "    jb 13b",
    "20: mov rax, qword ptr [rbp + 16]",
    "    pause",
    "    cmp rax, qword ptr [rbp + 8]",
    "    jb 20b",
    // The table: address, value, ticks, told, the second vCPU's longest gap meanwhile.
    "    mov r12, qword ptr [rbp]",
    "    mov rbx, {table}",
    "30: test r12, r12",
    "    jz 40f",
    "    mov rsi, qword ptr [rbx]",
    "    mov r13, {clocks}",
    "    xor edx, edx",
    "    xchg qword ptr [r13 + 8], rdx",
    "    lfence",
    "    rdtsc",
    "    lfence",
    "    shl rdx, 32",
    "    lea r8, [rdx + rax]",
    "    mov rdi, qword ptr [rsi]",
    "    lfence",
    "    rdtsc",
    "    shl rdx, 32",
    "    add rax, rdx",
    "    mov qword ptr [rbx + 8], rdi",
    "32: sub rax, r8",
    "    mov qword ptr [rbx + 16], rax",
    // To be watched: sleep, a millisecond or so at a time, which the local interrupt controller's
    // timer ends (AMD64 manual, volume 2, section 16.4.1).
    "35: rdtsc",
    "    shl rdx, 32",
    "    add rax, rdx",
    "    sub rax, r8",
    "    cmp rax, qword ptr [rbx + 40]",
    "    jae 36f",
    "    mov r9d, {local_apic}",
    "    mov dword ptr [r9 + 0xf0], 0x1ff", // on; spurious interrupts at vector 255
    "    mov dword ptr [r9 + 0x3e0], 0xb",  // counts as fast as the bus: KVM's has 1 GHz
    "    mov dword ptr [r9 + 0x320], 32",   // once, at vector 32
    "    mov dword ptr [r9 + 0x380], 1000000",
    "    sti",
    "    hlt",
    "    cli",
    "    jmp 35b",
    "36: cmp qword ptr [rbp + 8], 0",
    "    je 34f",
    // A gap that lasts until now is known when the clock has been read twice more.
    "    mov rcx, qword ptr [r13]",
    "33: pause",
    "    mov rdx, qword ptr [r13]",
    "    sub rdx, rcx",
    "    cmp rdx, 2",
    "    jb 33b",
    "    mov rdx, qword ptr [r13 + 8]",
    "    mov qword ptr [rbx + 32], rdx",
    "34: add rbx, {entry}",
    "    dec r12",
    "    jmp 30b",
    // Off.
    "40: mov edx, {sleep_control}",
    "    mov al, {off}",
    "    out dx, al",
    "    hlt",
    "    jmp 40b",
    // The other vCPUs: read the clock, note the longest gap since the first vCPU asked, and how
    // many gaps had so many bits. In user mode, with a stack at the end of their page: some
    // hypervisors emulate kernel mode instruction by instruction, which is all gaps.
    "50: lea rbx, [rdi - 1]",
    "    shl rbx, 12",
    "    add rbx, {clocks}",
    "    lea rsp, [rbx + {clock}]",
    "    push {user_data}",
    "    push rsp",
    "    push 2", // no flags but the one that is always set
    "    push {user_code}",
    "    lea rax, [rip + 55f]",
    "    push rax",
    "    iretq",
    "55: mov rbp, {parameters}",
    "    lock inc qword ptr [rbp + 16]",
    "    rdtsc",
    "    shl rdx, 32",
    "    lea r8, [rdx + rax]",
    "51: rdtsc",
    "    shl rdx, 32",
    "    add rax, rdx",
    "    mov rcx, rax",
    "    sub rcx, r8",
    "    mov r8, rax",
    "    inc qword ptr [rbx]",
    "    cmp rcx, qword ptr [rbx + 8]",
    "    jbe 52f",
    "    mov qword ptr [rbx + 8], rcx",
    "52: or rcx, 1",
    "    bsr rcx, rcx",
    "    inc qword ptr [rbx + 16 + 8 * rcx]",
    "    jmp 51b",
    // A machine check: the clock first, then the bank that has something (VAL, bit 63). What it
    // says is noted and cleared, and at last that it was taken (MCG_STATUS).
    "70: push rax",
    "    push rcx",
    "    push rdx",
    "    push r9",
    "    push r11",
    "    rdtsc",
    "    shl rdx, 32",
    "    lea r11, [rdx + rax]",
    "    mov ecx, 0x179",
    "    rdmsr",
    "    movzx r9d, al",
    "    mov ecx, 0x401", // MC0_STATUS
    "71: rdmsr",
    "    test edx, edx",
    "    js 72f",
    "    add ecx, 4",
    "    dec r9d",
    "    jnz 71b",
    "    jmp 74f",
    "72: inc ecx", // MCi_ADDR
    "    rdmsr",
    "    shl rdx, 32",
    "    or rdx, rax",
    "    mov r9, rdx",
    "    dec ecx",
    "    xor eax, eax",
    "    xor edx, edx",
    "    wrmsr",
    "    mov ecx, 0x17a", // MCG_STATUS; EIPV, bit 1: the interrupted instruction met it
    "    rdmsr",
    "    test al, 2",
    "    jz 73f",
    "    mov qword ptr [rbx + 24], r9",
    "    lea rax, [rip + 32b]",
    "    mov qword ptr [rsp + 40], rax",
    "    mov qword ptr [rsp + 32], r11", // the clock, for which that looks in RAX
    "    jmp 74f",
    "73: inc qword ptr [rbp + 24]",
    "74: mov ecx, 0x17a",
    "    xor eax, eax",
    "    xor edx, edx",
    "    wrmsr",
    "    pop r11",
    "    pop r9",
    "    pop rdx",
    "    pop rcx",
    "    pop rax",
    "    iretq",
    // The timer: taken (end of interrupt).
    "80: push rax",
    "    mov eax, {local_apic}",
    "    mov dword ptr [rax + 0xb0], 0",
    "    pop rax",
    "    iretq",
    "pagemend_touch_end:",
    ".popsection",
    parameters = const PARAMETERS.get(),
    table = const TABLE.get(),
    entry = const ENTRY,
    clocks = const CLOCKS.get(),
    clock = const CLOCK,
    user_data = const crate::boot::USER_DATA,
    user_code = const crate::boot::USER_CODE,
    stack = const 0x1f_0000,
    idt = const 0x1f_0000,
    local_apic = const crate::layout::LOCAL_APIC,
    sleep_control = const crate::devices::power::SLEEP_CONTROL,
    off = const crate::devices::power::OFF,
);
