//! A ledger from a history that was written outside: it is one only where the history agrees with
//! itself, whichever form it came in.

use std::{collections::BTreeSet, ops::Range};

use super::{
    Ledger, decode_error::DecodeError, frame_set::FrameSet, log::Log, recipients::Recipient,
};
use crate::{address::FRAME_SIZE, time::Timestamp};

impl Ledger {
    /// The ledger with this history, which comes from outside and may contradict itself.
    pub(super) fn from_history(
        log: Log,
        recipients: Vec<Recipient>,
        entrusted: FrameSet,
    ) -> Result<Self, DecodeError> {
        let mut frames = FrameSet::default();
        for (generation, record) in log.since(0) {
            let inconsistent = |reason| DecodeError::Inconsistent { generation, reason };
            if record.frame > u64::MAX / FRAME_SIZE {
                return Err(inconsistent("a frame outside the address space"));
            }
            if Timestamp::from_millis(record.millis).is_none() {
                return Err(inconsistent("a time that no timestamp can have"));
            }
            if !frames.insert(record.frame) {
                return Err(inconsistent("a frame that is lost twice"));
            }
        }
        let Range { start, end } = log.generations();
        if !entrusted
            .frames_in(0..u64::MAX)
            .all(|frame| frames.contains(frame))
        {
            return Err(DecodeError::Inconsistent {
                generation: end,
                reason: "a healthy frame that the guest keeps off",
            });
        }
        let mut names = BTreeSet::new();
        for recipient in &recipients {
            let inconsistent = |reason| DecodeError::Inconsistent {
                generation: recipient.cursor,
                reason,
            };
            let Recipient {
                name,
                cursor,
                ahead,
            } = recipient;
            if !names.insert(name) {
                return Err(inconsistent("a recipient that is registered twice"));
            }
            if !(start..=end).contains(cursor) {
                return Err(inconsistent(
                    "a recipient at a generation that is not there",
                ));
            }
            let from_cursor = || std::iter::once(cursor).chain(ahead);
            if from_cursor()
                .zip(ahead)
                .any(|(before, after)| before >= after)
                || ahead.last().is_some_and(|last| *last >= end)
            {
                return Err(inconsistent("a recipient that was told what is not there"));
            }
        }
        Ok(Self {
            frames,
            log,
            recipients,
            entrusted,
        })
    }
}
