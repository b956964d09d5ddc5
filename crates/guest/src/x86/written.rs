//! Machine checks as people and programs write them: `status=0x… addr=0x…`, the kernel's own lines
//! and its tracepoint's, and what rasdaemon and mcelog print.

use super::machine_check::{MachineCheck, Vendor};

/// A machine check that was found in text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The line that it starts in, counted from 1.
    pub line: usize,
    /// Whose it is, where the text says.
    pub vendor: Option<Vendor>,
    /// The processor, by the kernel's number.
    pub cpu: Option<u32>,
    /// The bank, where the text says; it is 0 in the record where not.
    pub bank: Option<u8>,
    /// The registers. Those that are not in the text are 0.
    pub record: MachineCheck,
    /// What was given a value that is none.
    pub problem: Option<String>,
}

/// The machine checks in `text`, in its order. One is what has a status register; it ends where
/// something is said that was said of it already, and at an empty line.
pub fn machine_checks(text: &str) -> Vec<Written> {
    let mut reader = Reader::default();
    for (place, line) in text.lines().enumerate() {
        if line.trim().is_empty() {
            reader.finish();
        } else {
            reader.line(place + 1, line);
        }
    }
    reader.finish();
    reader.found
}

/// A word, and whether `=` follows it: then it is surely a name.
type Word<'a> = (&'a str, bool);

fn words(line: &str) -> Vec<Word<'_>> {
    let separates = |c: char| c.is_whitespace() || "=:,;[]<>()".contains(c);
    let mut words = Vec::new();
    let mut rest = line;
    loop {
        rest = rest.trim_start_matches(separates);
        if rest.is_empty() {
            return words;
        }
        let end = rest.find(separates).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        words.push((word, after.trim_start().starts_with('=')));
        rest = after;
    }
}

/// What can be said of a machine check.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Name {
    Cpu,
    Bank,
    Status,
    Addr,
    Misc,
    McgStatus,
    Vendor,
}

#[derive(Default)]
struct Reader {
    found: Vec<Written>,
    line: usize,
    counting: Counting,
    open: Open,
}

/// How a line's numbers are counted where programs differ: by most of them banks in tens and
/// MCG_STATUS in sixteens, by rasdaemon MCG_STATUS in tens (`decode_mcg`), and banks in sixteens
/// (`report_mce_event`) but in the names that it gives them, as `Load Store Unit (bank=16)`.
#[derive(Default)]
struct Counting {
    bank_in_sixteens: bool,
    mcg_status_in_tens: bool,
}

impl Counting {
    fn of(line: &str, words: &[Word<'_>]) -> Self {
        let rasdaemon = words.iter().any(|(word, _)| *word == "cpu_type");
        Self {
            bank_in_sixteens: rasdaemon && !line.contains("(bank="),
            mcg_status_in_tens: rasdaemon,
        }
    }
}

/// A machine check of which more may come.
#[derive(Default)]
struct Open {
    line: Option<usize>,
    cpu: Option<u32>,
    bank: Option<u8>,
    status: Option<u64>,
    addr: Option<u64>,
    misc: Option<u64>,
    mcg_status: Option<u64>,
    vendor: Option<Vendor>,
    problem: Option<String>,
}

impl Reader {
    fn line(&mut self, line: usize, text: &str) {
        let words = words(text);
        self.line = line;
        self.counting = Counting::of(text, &words);
        for (at, (word, names)) in words.iter().enumerate() {
            let next = |step: usize| words.get(at + step).map_or("", |(word, _)| *word);
            match word.to_ascii_lowercase().as_str() {
                // Without `=` it may be prose: a status is all of its 64 bits, or marked as a number.
                "status" if *names || is_register(next(1)) => self.hex(Name::Status, next(1)),
                "mcgstatus" | "mcg_status" => self.hex(Name::McgStatus, next(1)),
                "addr" | "misc" if *names || hex(next(1)).is_some() => {
                    let name = if word.eq_ignore_ascii_case("addr") {
                        Name::Addr
                    } else {
                        Name::Misc
                    };
                    self.hex(name, next(1));
                }
                "cpu" | "extcpu" => self.cpu(next(1)),
                // The kernel has the status behind it: `Bank 9: bd80000000000134`.
                "bank" => {
                    self.bank(next(1));
                    if is_register(next(2)) {
                        self.hex(Name::Status, next(2));
                    }
                }
                // `Machine Check Exception: 5`, or without the second word.
                "check" if at > 0 && words[at - 1].0 == "Machine" => {
                    let value = if next(1) == "Exception" {
                        next(2)
                    } else {
                        next(1)
                    };
                    if hex(value).is_some() {
                        self.hex(Name::McgStatus, value);
                    }
                }
                // The tracepoint's pairs: MCG_CAP and MCG_STATUS, and in older kernels three more.
                "mcgc/s" => self.hex(
                    Name::McgStatus,
                    next(1).split('/').next_back().unwrap_or(""),
                ),
                "addr/misc" | "addr/misc/synd" => {
                    let mut values = next(1).split('/');
                    self.hex(Name::Addr, values.next().unwrap_or(""));
                    self.hex(Name::Misc, values.next().unwrap_or(""));
                }
                "vendor" | "cpuvendor" => self.vendor(next(1)),
                "processor" => self.vendor(next(1)),
                word => self.numbered(word, &words[at + 1..]),
            }
        }
    }

    /// `MC9: 9c00180000000000`, and AMD's `MC9_STATUS[…]: 0x9c00180000000000`.
    fn numbered(&mut self, word: &str, after: &[Word<'_>]) {
        let Some(bank) = word.strip_prefix("mc") else {
            return;
        };
        let (bank, amd) = match bank.strip_suffix("_status") {
            Some(bank) => (bank, true),
            None => (bank, false),
        };
        // AMD's flags stand between, and are one word.
        let status = after.iter().map(|(word, _)| *word);
        let mut status = status.take(if amd { 2 } else { 1 });
        let Some(status) = status.find(|word| is_register(word)) else {
            return;
        };
        if bank.parse::<u8>().is_ok() {
            self.bank(bank);
            self.hex(Name::Status, status);
            if amd {
                self.open.vendor = Some(Vendor::Amd);
            }
        }
    }

    /// Makes room for something that is said: if it was said already, another machine check begins.
    fn begin(&mut self, name: Name) {
        let open = &self.open;
        let said = match name {
            Name::Cpu => open.cpu.is_some(),
            Name::Bank => open.bank.is_some(),
            Name::Status => open.status.is_some(),
            Name::Addr => open.addr.is_some(),
            Name::Misc => open.misc.is_some(),
            Name::McgStatus => open.mcg_status.is_some(),
            Name::Vendor => open.vendor.is_some(),
        };
        if said {
            self.finish();
        }
        self.open.line.get_or_insert(self.line);
    }

    fn hex(&mut self, name: Name, text: &str) {
        self.begin(name);
        let open = &mut self.open;
        let (register, called) = match name {
            Name::Status => (&mut open.status, "status"),
            Name::Addr => (&mut open.addr, "addr"),
            Name::Misc => (&mut open.misc, "misc"),
            _ => (&mut open.mcg_status, "mcg_status"),
        };
        let in_tens = name == Name::McgStatus && self.counting.mcg_status_in_tens;
        let value = in_tens.then(|| text.parse().ok()).flatten();
        let value = value.or_else(|| hex(text));
        *register = Some(value.unwrap_or(0));
        if value.is_none() {
            let problem = format!("{called} is no number of 64 bits: {text:?}");
            open.problem.get_or_insert(problem);
        }
    }

    fn cpu(&mut self, text: &str) {
        if let Ok(cpu) = text.parse() {
            self.begin(Name::Cpu);
            self.open.cpu = Some(cpu);
        }
    }

    fn bank(&mut self, text: &str) {
        let in_tens = text.parse().ok();
        let bank = in_tens.filter(|_| !self.counting.bank_in_sixteens);
        let bank = bank.or_else(|| u8::try_from(hex(text)?).ok());
        if bank.is_some() {
            self.begin(Name::Bank);
            self.open.bank = bank;
        }
    }

    /// By name, or by Linux's number (`X86_VENDOR_INTEL`, arch/x86/include/asm/processor.h).
    fn vendor(&mut self, text: &str) {
        let name = text.to_ascii_lowercase();
        let vendor = match name.as_str() {
            "0" | "10" => Vendor::Intel,
            "2" | "9" => Vendor::Amd,
            name if name.contains("intel") || name.contains("zhaoxin") => Vendor::Intel,
            name if name.contains("amd") || name.contains("hygon") => Vendor::Amd,
            _ => return,
        };
        self.begin(Name::Vendor);
        self.open.vendor = Some(vendor);
    }

    fn finish(&mut self) {
        let open = std::mem::take(&mut self.open);
        let (Some(line), Some(status)) = (open.line, open.status) else {
            return;
        };
        self.found.push(Written {
            line,
            vendor: open.vendor,
            cpu: open.cpu,
            bank: open.bank,
            record: MachineCheck {
                bank: open.bank.unwrap_or(0),
                status,
                addr: open.addr.unwrap_or(0),
                misc: open.misc.unwrap_or(0),
                mcg_status: open.mcg_status.unwrap_or(0),
            },
            problem: open.problem,
        });
    }
}

/// A hexadecimal number, marked as such or not.
fn hex(text: &str) -> Option<u64> {
    let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
    let digits = digits.unwrap_or(text);
    // Not a sign, which the parser would take.
    let first = digits.starts_with(|c: char| c.is_ascii_hexdigit());
    u64::from_str_radix(digits, 16).ok().filter(|_| first)
}

/// Whether it is written as a register is: marked, or with all digits.
fn is_register(text: &str) -> bool {
    let whole = text.len() == 16 || text.starts_with("0x") || text.starts_with("0X");
    whole && hex(text).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Written {
        let found = machine_checks(text);
        assert_eq!(found.len(), 1, "{found:?}");
        found.into_iter().next().unwrap()
    }

    #[test]
    fn a_vendor_is_known_by_its_name_and_by_linuxs_number() {
        for (vendor, names) in [
            (
                Vendor::Intel,
                ["intel", "GenuineIntel", "Zhaoxin", "0", "10"],
            ),
            (
                Vendor::Amd,
                ["AMD", "AuthenticAMD", "HygonGenuine", "2", "9"],
            ),
        ] {
            for name in names {
                let written = one(&format!("vendor={name} status=0x8000000000000000"));
                assert_eq!(written.vendor, Some(vendor), "{name}");
            }
        }
        assert_eq!(one("vendor=else status=0x8000000000000000").vendor, None);
    }

    #[test]
    fn amds_driver_says_whose_it_is_by_its_form() {
        // drivers/edac/mce_amd.c
        let text = "[Hardware Error]: Deferred error, no action required.\n\
                    [Hardware Error]: CPU:0 (17:31:0) MC9_STATUS[-|-|MiscV|AddrV|-|-|-|-|Deferred|Poison]: 0x9c00180000000000\n\
                    [Hardware Error]: Error Addr: 0x0000000040002000";
        let written = one(text);
        assert_eq!(written.vendor, Some(Vendor::Amd));
        assert_eq!(written.bank, Some(9));
        assert_eq!(written.record.status, 0x9c00_1800_0000_0000);
        assert_eq!(written.record.addr, 0x4000_2000);
    }

    #[test]
    fn rasdaemon_counts_banks_in_sixteens_and_mcg_status_in_tens() {
        for (bank, expected) in [("bank=13", 19), ("Load Store Unit (bank=13)", 13)] {
            let written = one(&format!(
                "{bank}, status= bd80000000000134, cpu_type= Generic, cpu= 3, \
                 mcgstatus=15 RIPV EIPV MCIP LMCE"
            ));
            assert_eq!(written.bank, Some(expected));
            assert_eq!(written.record.mcg_status, 0xf);
        }
    }

    #[test]
    fn one_ends_where_the_next_begins() {
        let text = "bank=1 status=0x8000000000000001\nbank=2 status=0x8000000000000002\n\n\
                    status=0x8000000000000003";
        let found = machine_checks(text);
        let told: Vec<_> = found
            .iter()
            .map(|written| (written.line, written.bank))
            .collect();
        assert_eq!(told, [(1, Some(1)), (2, Some(2)), (4, None)]);
        assert_eq!(found[2].record.status & 0xf, 3);
    }

    #[test]
    fn prose_and_digits_are_no_machine_checks() {
        for text in [
            "the status is bad",
            "status: dead",
            "00000000: 4350 4552",
            "bank=4 addr=0x1000",
            "",
        ] {
            assert_eq!(machine_checks(text), [], "{text}");
        }
    }

    #[test]
    fn a_line_of_names_without_values_is_no_hard_work() {
        // Looking for the value of each in all that follows takes minutes.
        assert_eq!(machine_checks(&"mc9_status ".repeat(200_000)), []);
    }

    #[test]
    fn a_value_that_is_none_is_told() {
        let written = one("status=0xbd80000000000134 addr=nowhere");
        assert_eq!(
            written.problem.unwrap(),
            "addr is no number of 64 bits: \"nowhere\""
        );
    }
}
