//! The walker for a person: orders typed at the guest's console, answers in sentences.

use anyhow::{Context, Result};
use pagemend_lab_protocol::walker::{Order, Word};
use std::io::{self, BufRead, Write};

/// What can be typed.
const HELP: &str = "Enter checks all memory once more; restart and poweroff do what they say.";

/// Says something.
pub(crate) fn say(word: &Word) -> Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "walker: {}", sentence(word)).context("cannot write to the console")
}

/// Waits for the next order. At the end of what is typed the machine is switched off.
pub(crate) fn hear() -> Result<Order> {
    let mut line = String::new();
    loop {
        line.clear();
        if io::stdin()
            .lock()
            .read_line(&mut line)
            .context("cannot read from the console")?
            == 0
        {
            return Ok(Order::PowerOff);
        }
        match order(line.trim()) {
            Some(order) => return Ok(order),
            None => println!("walker: {HELP}"),
        }
    }
}

fn order(line: &str) -> Option<Order> {
    match line {
        "" | "survey" => Some(Order::Survey),
        "restart" => Some(Order::Restart),
        "poweroff" => Some(Order::PowerOff),
        _ => None,
    }
}

fn sentence(word: &Word) -> String {
    match word {
        Word::Hello {
            kernel,
            vendor,
            cpus,
            owned,
            troubles,
        } => {
            let mib = owned >> 20;
            let mut text = format!(
                "Linux {kernel} on {cpus} {vendor} vCPUs. I own {mib} MiB, and check and write every word of it, over and over. {HELP}"
            );
            for trouble in troubles {
                text.push_str(&format!("\nwalker: not so well: {trouble}"));
            }
            text
        }
        Word::Survey(seen) => {
            let mut text = format!(
                "{} values checked in {} rounds: {} wrong, {} SIGBUS, HardwareCorrupted {} KiB",
                seen.values,
                seen.rounds,
                seen.wrong,
                seen.signals.len(),
                seen.hardware_corrupted_kb
            );
            for signal in &seen.signals {
                text.push_str(&format!(
                    "\nwalker: lost the frame at {:#x}",
                    signal.frame * 4096
                ));
            }
            for frame in &seen.failures {
                text.push_str(&format!(
                    "\nwalker: my kernel calls the frame at {:#x} failed",
                    frame * 4096
                ));
            }
            text
        }
        Word::Frame { frame } => format!("frame {frame:#x}"),
        Word::Flags { flags } => format!("flags {flags:#x}"),
        Word::Log { lines } => lines.join("\nwalker: my kernel says: "),
        Word::Done { error: None } => "done".into(),
        Word::Done { error: Some(error) } => error.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pagemend_lab_protocol::walker::{Signal, Survey, Use};

    #[test]
    fn an_empty_line_is_an_order_and_nonsense_is_none() {
        assert_eq!(order(""), Some(Order::Survey));
        assert_eq!(order("poweroff"), Some(Order::PowerOff));
        assert_eq!(order("make coffee"), None);
    }

    #[test]
    fn a_survey_names_what_is_lost() {
        let signal = Signal {
            frame: 0x12,
            code: 4,
            what: Use::Walker,
        };
        let survey = Survey {
            signals: vec![signal],
            ..Survey::default()
        };
        assert!(sentence(&Word::Survey(survey)).contains("0x12000"));
    }
}
