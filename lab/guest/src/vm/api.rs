//! The API of pagemend's VMM: steering a machine from outside, and reading what it says of lost memory.

use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

/// Asks for something, and gives the body of the answer.
pub(crate) fn ask(socket: &Path, method: &str, path: &str) -> Result<String> {
    let mut stream = UnixStream::connect(socket).context("cannot reach the VMM's API")?;
    let head = format!(
        "{method} /api/v1/{path} HTTP/1.1\r\nHost: vm\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    );
    stream
        .write_all(head.as_bytes())
        .context("cannot ask the VMM")?;
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .context("the VMM does not answer")?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .context("the VMM's answer has no end")?;
    if !head.starts_with("HTTP/1.1 2") {
        bail!("the VMM refuses {path}: {body}");
    }
    Ok(body.to_owned())
}

/// The frames in a ledger (docs/ledger.md).
pub(crate) fn lost_frames(ledger: &str) -> Result<BTreeSet<u64>> {
    frames(ledger, |_| true)
}

/// Those of them that the guest keeps off by itself.
pub(crate) fn entrusted_frames(ledger: &str) -> Result<BTreeSet<u64>> {
    frames(ledger, |loss| loss["enforcement"] == "guest")
}

fn frames(ledger: &str, wanted: impl Fn(&Value) -> bool) -> Result<BTreeSet<u64>> {
    let ledger: Value = serde_json::from_str(ledger).context("the ledger is no JSON")?;
    let mut frames = BTreeSet::new();
    for loss in ledger["losses"]
        .as_array()
        .context("the ledger has no losses")?
        .iter()
        .filter(|loss| wanted(loss))
    {
        let (gpa, count) = (loss["gpa"].as_u64(), loss["frames"].as_u64());
        let first = gpa.context("a loss is nowhere")? / 4096;
        frames.extend(first..first + count.context("a loss has no size")?);
    }
    Ok(frames)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stretches_of_a_ledger_are_frames() {
        let ledger = r#"{"losses": [{"gpa": 8192, "frames": 2}, {"gpa": 40960, "frames": 1, "enforcement": "guest"}]}"#;
        assert_eq!(lost_frames(ledger).unwrap(), [2, 3, 10].into());
        assert_eq!(entrusted_frames(ledger).unwrap(), [10].into());
        assert!(lost_frames("{}").is_err());
    }
}
