//! The console log: what the kernel says when it can say nothing else any more.

/// What in a kernel log means that the kernel itself is in trouble.
const TROUBLE: [&str; 10] = [
    "Kernel panic",
    "BUG:",
    "Oops",
    "kernel BUG at",
    "soft lockup",
    "hard LOCKUP",
    "blocked for more than",
    "rcu: INFO: rcu_",
    "general protection fault",
    "WARNING:",
];

/// Lines of a kernel's last words.
const LAST: usize = 40;

/// The first line that tells of trouble.
pub(crate) fn trouble<'a>(lines: impl IntoIterator<Item = &'a str>) -> Option<String> {
    lines
        .into_iter()
        .find(|line| TROUBLE.iter().any(|words| line.contains(words)))
        .map(|line| line.trim().to_owned())
}

/// The lines worth showing with a result: memory failures, and the last words of a kernel in trouble.
pub(crate) fn excerpt(log: &str) -> Vec<String> {
    let lines: Vec<&str> = log.lines().map(str::trim_end).collect();
    let first = lines
        .iter()
        .position(|line| trouble([*line]).is_some())
        .unwrap_or(lines.len());
    let mut excerpt: Vec<String> = lines[..first]
        .iter()
        .filter(|line| line.contains("Memory failure:") || line.contains("lab:"))
        .map(|line| (*line).to_owned())
        .collect();
    // What the hardware said stands before the panic that it led to.
    let hardware = lines[..first]
        .iter()
        .filter(|line| line.contains("[Hardware Error]"));
    excerpt.extend(hardware.map(|line| (*line).to_owned()));
    excerpt.extend(
        lines[first..]
            .iter()
            .take(LAST)
            .map(|line| (*line).to_owned()),
    );
    excerpt
}

/// The last lines of a log, for a kernel that never said more.
pub(crate) fn end(log: &str) -> Vec<String> {
    let lines: Vec<&str> = log.lines().map(str::trim_end).collect();
    let last = &lines[lines.len().saturating_sub(LAST)..];
    last.iter().map(|line| (*line).to_owned()).collect()
}

/// Whether a kernel died of the emulator's timing. A real load's machine check belongs to the load and cannot meet the kernel; an emulated one comes when it comes. A kernel that rewrites its own instructions puts a breakpoint there meanwhile, and waits until no processor can be at it; an emulated processor that is late meets the breakpoint when nobody expects it any more.
pub(crate) fn emulators(log: &[String]) -> bool {
    const SAID: [&str; 2] = ["Data load in unrecoverable area of kernel", "Oops: int3"];
    log.iter()
        .any(|line| SAID.iter().any(|said| line.contains(said)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_found_and_shown_with_the_memory_failures_before_it() {
        let log = "booting\n[1.0] Memory failure: 0x1: recovered\nnoise\n[2.0] Kernel panic - not syncing\n[2.1] CPU: 0\n";
        assert!(trouble(log.lines()).unwrap().contains("Kernel panic"));
        let excerpt = excerpt(log);
        assert_eq!(excerpt.len(), 3);
        assert!(excerpt[0].contains("Memory failure"));
    }

    #[test]
    fn a_panic_of_the_kernels_own_is_not_the_emulators() {
        let log = |line: &str| emulators(&[line.to_owned()]);
        assert!(log("[106.5] Oops: int3: 0000 [#1] SMP NOPTI"));
        assert!(!log("[106.5] Oops: general protection fault"));
        assert!(!log("[2.0] Kernel panic - not syncing: Fatal exception"));
    }

    #[test]
    fn of_a_kernel_that_never_came_up_the_end_is_shown() {
        let log: String = (0..100).map(|line| format!("line {line}\n")).collect();
        let end = end(&log);
        assert_eq!((end.len(), end[LAST - 1].as_str()), (LAST, "line 99"));
    }

    #[test]
    fn a_memory_failure_is_no_trouble() {
        assert_eq!(trouble(["Memory failure: 0x1: recovered"]), None);
    }
}
