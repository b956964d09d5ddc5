//! What an operator wants to happen to a poisoned page, and who else uses the memory.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What is wanted for a page that a memory failure has taken away. Set per region.
///
/// A policy is a wish: [`plan`](crate::plan::plan) says what can be done about it and why not more.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// Save the readable bytes, swap in new memory, lose the unreadable frames.
    #[default]
    Mend,
    /// Leave the page mapped where the kernel offers it (`MFD_MF_KEEP_UE_MAPPED`); the lost
    /// frames are recorded and told, and isolating them is the guest's duty.
    Keep,
    /// Tell the whole page lost, then swap in zeroed memory.
    Discard,
    /// Tell the whole page lost and leave it poisoned.
    Abandon,
}

impl Policy {
    /// Every policy, in the order of the documentation.
    pub const ALL: [Self; 4] = [Self::Mend, Self::Keep, Self::Discard, Self::Abandon];

    /// The name by which events, options and documents call it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mend => "mend",
            Self::Keep => "keep",
            Self::Discard => "discard",
            Self::Abandon => "abandon",
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Policy {
    type Err = UnknownPolicy;

    fn from_str(name: &str) -> Result<Self, UnknownPolicy> {
        Self::ALL
            .into_iter()
            .find(|policy| policy.name() == name)
            .ok_or_else(|| UnknownPolicy(name.to_owned()))
    }
}

/// A name that no policy has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no policy is called '{0}': there are mend, keep, discard and abandon")]
pub struct UnknownPolicy(String);

/// When the bytes of a mended page come back. Set per region.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Filling {
    /// What somebody touches first, the rest in the background, 2 MiB and more at a time; nobody
    /// waits for more than what he has touched. Of pages up to 2 MiB that is the whole page.
    #[default]
    OnDemand,
    /// All at once, for which everyone who touches the page waits: less work in all.
    Eager,
}

/// When a stretch that was broken up around lost frames becomes one huge page again. Set per region.
///
/// From then on the frames do not fault any more: they can be read, as
/// [`FILL`](crate::host::FILL), and written. It is the guest that keeps off them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Heal {
    /// Only on request.
    #[default]
    Never,
    /// When the guest has acknowledged all of them, and has kept off them for a time.
    OnAck {
        /// For how long nobody must have touched any of them.
        after: Duration,
    },
    /// As soon as nothing else is to be done.
    Now,
}

/// Anyone besides the vCPUs who maps a region's memory: a vhost-user back end, a VFIO device, an
/// ivshmem peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Consumer {
    /// Who it is, as operators know it.
    pub name: String,
    /// Whether it maps the new memory when a page is swapped. One that cannot makes every page of
    /// the region ineligible: otherwise there would be two views of one memory.
    pub follows: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_is_parsed_by_the_name_it_prints() {
        for policy in Policy::ALL {
            assert_eq!(policy.to_string().parse(), Ok(policy));
        }
        assert!("repair".parse::<Policy>().is_err());
    }
}
