//! `memory.inject`: a frame of guest memory is made to fail.

use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

use oorandom::Rand64;
use pagemend::{Cause, FRAME_SIZE, Gpa, GpaRange, Inject, InjectError, Pagemend};
use serde::{Deserialize, Serialize};

use super::refusal::Refusal;
use crate::Vm;

/// Name and version of the form of an injection's answer.
pub const INJECTION_SCHEMA: &str = "pagemend.injection/1";

/// What was asked for.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wish {
    /// The address; a random frame that is not lost where there is none.
    gpa: Option<Gpa>,
    /// What the random frame depends on.
    seed: Option<u64>,
    kind: Kind,
    method: Method,
}

/// How the failure is noticed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Action required: by whoever touches it.
    Ar,
    /// Action optional: the mender is told before anybody touches it.
    Ao,
}

/// What makes it fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// The machine's process alone knows of it.
    Emulated,
    /// `madvise(MADV_HWPOISON)`.
    Madvise,
    /// The kernel's module hwpoison-inject: a scrubber has found it.
    CorruptPfn,
}

/// No such kind or method.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{given:?} is none of {known}")]
pub struct UnknownName {
    given: String,
    known: &'static str,
}

impl FromStr for Kind {
    type Err = UnknownName;

    fn from_str(name: &str) -> Result<Self, UnknownName> {
        match name {
            "ar" => Ok(Self::Ar),
            "ao" => Ok(Self::Ao),
            other => Err(UnknownName {
                given: other.to_owned(),
                known: "ar, ao",
            }),
        }
    }
}

impl FromStr for Method {
    type Err = UnknownName;

    fn from_str(name: &str) -> Result<Self, UnknownName> {
        match name {
            "emulated" => Ok(Self::Emulated),
            "madvise" => Ok(Self::Madvise),
            "corrupt-pfn" => Ok(Self::CorruptPfn),
            other => Err(UnknownName {
                given: other.to_owned(),
                known: "emulated, madvise, corrupt-pfn",
            }),
        }
    }
}

/// What was done.
#[derive(Serialize)]
pub(super) struct Injection {
    schema: &'static str,
    /// The frame that fails.
    gpa: Gpa,
    /// The page around it that the kernel takes away, or would.
    page: GpaRange,
    kind: Kind,
    method: Method,
    /// Where the frame was picked at random.
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<u64>,
}

/// Frames that are tried where only those will do that are in memory already.
const TRIES: u64 = 1024;

/// Does what `body` asks for.
pub(super) fn inject(vm: &Vm, body: &[u8]) -> Result<Injection, Refusal> {
    let wish: Wish =
        serde_json::from_slice(body).map_err(|error| Refusal::Malformed(error.to_string()))?;
    let pagemend = vm.pagemend();
    match (wish.gpa, wish.seed) {
        (Some(_), Some(_)) => {
            let why = "a seed is for a random frame, and gpa names one";
            Err(Refusal::CannotBe(why.to_owned()))
        }
        (Some(gpa), None) => Ok(wish.fulfil(pagemend, gpa, None)?),
        (None, seed) => {
            let seed = seed.unwrap_or_else(from_clock);
            let ranges: Vec<_> = vm.ram().ranges().collect();
            let pick = |seed| {
                let gpa = pick(&ranges, seed, |gpa| pagemend.is_lost(gpa));
                gpa.ok_or(Refusal::NothingLeft)
            };
            for seed in seed..seed.saturating_add(TRIES) {
                match wish.fulfil(pagemend, pick(seed)?, Some(seed)) {
                    Err(InjectError::NoMemory { .. }) => {}
                    other => return Ok(other?),
                }
            }
            Ok(wish.fulfil(pagemend, pick(seed)?, Some(seed))?)
        }
    }
}

impl Wish {
    /// Makes the frame at `gpa` fail.
    fn fulfil(
        &self,
        pagemend: &Pagemend,
        gpa: Gpa,
        seed: Option<u64>,
    ) -> Result<Injection, InjectError> {
        let gpa = gpa.frame();
        let page = page_of(pagemend, gpa)?;
        let cause = match self.kind {
            Kind::Ar => Cause::ActionRequired,
            Kind::Ao => Cause::ActionOptional,
        };
        match self.method {
            Method::Emulated => pagemend.emulated_errors().inject(gpa, cause),
            Method::Madvise => pagemend.madvise_errors().inject(gpa, cause),
            Method::CorruptPfn => pagemend.corrupt_pfn_errors().inject(gpa, cause),
        }?;
        Ok(Injection {
            schema: INJECTION_SCHEMA,
            gpa,
            page,
            kind: self.kind,
            method: self.method,
            seed,
        })
    }
}

fn page_of(pagemend: &Pagemend, gpa: Gpa) -> Result<GpaRange, InjectError> {
    pagemend.with_map(|map| {
        let location = map.locate_gpa(gpa).ok_or(InjectError::Unknown { gpa })?;
        Ok(GpaRange::page(gpa, location.segment.page_size))
    })
}

fn from_clock() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |since| since.as_nanos() as u64)
}

/// A frame of `ranges` that is not lost: the same for the same seed and losses.
fn pick(ranges: &[GpaRange], seed: u64, is_lost: impl Fn(Gpa) -> bool) -> Option<Gpa> {
    let frames: u64 = ranges.iter().map(|range| range.len() / FRAME_SIZE).sum();
    let mut random = Rand64::new(seed.into());
    let first = random.rand_range(0..frames.max(1));
    // From there on and around: it ends also where hardly a frame is left.
    (first..frames)
        .chain(0..first)
        .filter_map(|index| frame(ranges, index))
        .find(|gpa| !is_lost(*gpa))
}

fn frame(ranges: &[GpaRange], mut index: u64) -> Option<Gpa> {
    for range in ranges {
        let frames = range.len() / FRAME_SIZE;
        if index < frames {
            return range.at(index * FRAME_SIZE);
        }
        index -= frames;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_random_frame_is_any_that_is_not_lost_and_the_same_for_the_same_seed() {
        let range = |start, frames| {
            GpaRange::new(Gpa::new(start), frames * FRAME_SIZE).expect("a small range")
        };
        let ranges = [range(0, 3), range(0x10_0000, 2)];
        let all: BTreeSet<Gpa> = ranges.iter().flat_map(GpaRange::frames).collect();
        let picked = |is_lost: fn(Gpa) -> bool| -> BTreeSet<_> {
            (0..200)
                .filter_map(|seed| pick(&ranges, seed, is_lost))
                .collect()
        };
        assert_eq!(picked(|_| false), all);
        let odd: BTreeSet<_> = all.iter().copied().filter(|gpa| gpa.get() != 0).collect();
        assert_eq!(picked(|gpa| gpa.get() == 0), odd);
        assert!(picked(|_| true).is_empty());
        assert_eq!(pick(&ranges, 7, |_| false), pick(&ranges, 7, |_| false));
    }
}
