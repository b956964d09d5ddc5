//! Addresses, ranges and page sizes.
//!
//! A guest physical and a host virtual address are different types, because mixing them up is the
//! one mistake that turns a recovery into corruption. All arithmetic is checked.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Bytes in a frame, the unit in which memory is lost: the guest's base page.
pub const FRAME_SIZE: u64 = 4096;

/// What a range can be made of: a 64-bit address of one particular space.
pub trait Address: Copy + Ord + fmt::Display + fmt::Debug {
    /// The address as a number of bytes from the start of its space.
    fn raw(self) -> u64;
    /// The address `raw` bytes from the start of its space.
    fn from_raw(raw: u64) -> Self;
}

macro_rules! address {
    ($(#[$doc:meta])* $name:ident, $range:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(u64);

        impl $name {
            /// The address `raw` bytes from the start of its space.
            pub const fn new(raw: u64) -> Self {
                Self(raw)
            }

            /// The address as a number of bytes from the start of its space.
            pub const fn get(self) -> u64 {
                self.0
            }

            /// The address `bytes` further up, or `None` past the end of the space.
            pub fn checked_add(self, bytes: u64) -> Option<Self> {
                self.0.checked_add(bytes).map(Self)
            }

            /// The largest multiple of `size` that is not above this address.
            pub fn align_down(self, size: PageSize) -> Self {
                Self(self.0 & !(size.bytes() - 1))
            }

            /// Whether the address is a multiple of `size`.
            pub fn is_aligned(self, size: PageSize) -> bool {
                self.0 & (size.bytes() - 1) == 0
            }

            /// The frame that holds this address: its first byte.
            pub fn frame(self) -> Self {
                self.align_down(PageSize::SIZE_4K)
            }
        }

        impl Address for $name {
            fn raw(self) -> u64 {
                self.0
            }
            fn from_raw(raw: u64) -> Self {
                Self(raw)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:#x})"), self.0)
            }
        }

        #[doc = concat!("A half-open range of [`", stringify!($name), "`].")]
        pub type $range = AddressRange<$name>;
    };
}

address!(
    /// A guest physical address.
    Gpa, GpaRange
);
address!(
    /// A host virtual address in the process that holds the guest's memory.
    Hva, HvaRange
);

/// A half-open, non-wrapping range of addresses: `start..start + len`, `len` in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AddressRange<A> {
    start: A,
    len: u64,
}

impl<A: Address> AddressRange<A> {
    /// The range of `len` bytes from `start`, or `None` where it would pass the end of the space.
    pub fn new(start: A, len: u64) -> Option<Self> {
        start.raw().checked_add(len)?;
        Some(Self { start, len })
    }

    /// The page of `size` that holds `address`.
    pub fn page(address: A, size: PageSize) -> Self {
        Self {
            start: A::from_raw(address.raw() & !(size.bytes() - 1)),
            len: size.bytes(),
        }
    }

    /// The first address.
    pub fn start(&self) -> A {
        self.start
    }

    /// The first address behind the range.
    pub fn end(&self) -> A {
        A::from_raw(self.start.raw() + self.len)
    }

    /// Bytes in the range.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there is no byte in the range.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether `address` lies in the range.
    pub fn contains(&self, address: A) -> bool {
        self.offset_of(address).is_some()
    }

    /// Whether all of `other` lies in the range.
    pub fn covers(&self, other: &Self) -> bool {
        self.start <= other.start && other.end() <= self.end()
    }

    /// Whether the two share at least one byte.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.intersection(other).is_some()
    }

    /// The bytes that both have, or `None` where there is none.
    pub fn intersection(&self, other: &Self) -> Option<Self> {
        let start = self.start.max(other.start);
        let end = self.end().min(other.end());
        (start < end).then(|| Self {
            start,
            len: end.raw() - start.raw(),
        })
    }

    /// Bytes from the start to `address`, or `None` where it lies outside.
    pub fn offset_of(&self, address: A) -> Option<u64> {
        let offset = address.raw().checked_sub(self.start.raw())?;
        (offset < self.len).then_some(offset)
    }

    /// The address `offset` bytes into the range, or `None` at or behind its end.
    pub fn at(&self, offset: u64) -> Option<A> {
        (offset < self.len).then(|| A::from_raw(self.start.raw() + offset))
    }

    /// The `len` bytes from `offset` on, or `None` where they pass the end.
    pub fn slice(&self, offset: u64, len: u64) -> Option<Self> {
        (offset.checked_add(len)? <= self.len).then(|| Self {
            start: A::from_raw(self.start.raw() + offset),
            len,
        })
    }

    /// The pages of `size` that the range touches, first to last.
    pub fn pages(&self, size: PageSize) -> impl Iterator<Item = Self> + use<A> {
        let first = self.start.raw() >> size.shift();
        let behind = match self.len {
            0 => first,
            len => ((self.start.raw() + (len - 1)) >> size.shift()) + 1,
        };
        (first..behind).map(move |page| Self {
            start: A::from_raw(page << size.shift()),
            len: size.bytes(),
        })
    }

    /// The frames that the range touches, each by its first byte.
    pub fn frames(&self) -> impl Iterator<Item = A> + use<A> {
        self.pages(PageSize::SIZE_4K).map(|frame| frame.start)
    }

    /// Whether both ends are multiples of `size`.
    pub fn is_aligned(&self, size: PageSize) -> bool {
        (self.start.raw() | self.len) & (size.bytes() - 1) == 0
    }
}

impl<A: Address> fmt::Display for AddressRange<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}, {:#x})", self.start, self.start.raw() + self.len)
    }
}

impl<A: Address> fmt::Debug for AddressRange<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// A page size: a power of two, from 4 KiB up to 1 TiB.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct PageSize(u8);

impl PageSize {
    /// 4 KiB: a frame.
    pub const SIZE_4K: Self = Self(12);
    /// 2 MiB: the PMD level on x86-64 and on arm64 with 4 KiB granules.
    pub const SIZE_2M: Self = Self(21);
    /// 1 GiB: the PUD level on x86-64 and on arm64 with 4 KiB granules.
    pub const SIZE_1G: Self = Self(30);

    /// The size of `bytes`, or `None` where no page of that size can exist.
    pub fn from_bytes(bytes: u64) -> Option<Self> {
        let shift = bytes.trailing_zeros();
        (bytes.is_power_of_two() && (12..=40).contains(&shift)).then_some(Self(shift as u8))
    }

    /// Bytes in a page.
    pub const fn bytes(self) -> u64 {
        1 << self.0
    }

    /// Base-two logarithm of the bytes: what the kernel calls the shift, and `si_addr_lsb`.
    pub const fn shift(self) -> u8 {
        self.0
    }

    /// Frames in a page.
    pub const fn frames(self) -> u64 {
        self.bytes() / FRAME_SIZE
    }

    /// The largest page size below this one that x86-64 and arm64 with 4 KiB granules map; 4 KiB
    /// is its own.
    pub fn next_smaller(self) -> Self {
        [Self::SIZE_1G, Self::SIZE_2M]
            .into_iter()
            .find(|size| *size < self)
            .unwrap_or(Self::SIZE_4K)
    }

    /// Whether a page holds more than one frame.
    pub fn is_huge(self) -> bool {
        self > Self::SIZE_4K
    }
}

impl TryFrom<u64> for PageSize {
    type Error = String;
    fn try_from(bytes: u64) -> Result<Self, String> {
        Self::from_bytes(bytes).ok_or_else(|| format!("no page has {bytes} bytes"))
    }
}

impl From<PageSize> for u64 {
    fn from(size: PageSize) -> u64 {
        size.bytes()
    }
}

impl fmt::Display for PageSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            shift @ 0..20 => write!(f, "{} KiB", 1u64 << (shift - 10)),
            shift @ 20..30 => write!(f, "{} MiB", 1u64 << (shift - 20)),
            shift => write!(f, "{} GiB", 1u64 << (shift - 30)),
        }
    }
}

impl fmt::Debug for PageSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sizes() -> impl Strategy<Value = PageSize> {
        prop_oneof![
            Just(PageSize::SIZE_4K),
            Just(PageSize::SIZE_2M),
            Just(PageSize::SIZE_1G)
        ]
    }

    proptest! {
        #[test]
        fn a_range_never_wraps(start: u64, len: u64) {
            match GpaRange::new(Gpa::new(start), len) {
                Some(range) => prop_assert_eq!(range.end().get() - start, len),
                None => prop_assert!(start.checked_add(len).is_none()),
            }
        }

        #[test]
        fn pages_cover_the_range_and_no_more(start in 0..1u64 << 48, len in 0..8u64 << 30, size in sizes()) {
            let len = len >> (PageSize::SIZE_1G.shift() - size.shift());
            let range = GpaRange::new(Gpa::new(start), len).unwrap();
            let pages: Vec<_> = range.pages(size).collect();
            prop_assert!(pages.iter().all(|page| page.overlaps(&range)));
            let covered: u64 = pages.iter().filter_map(|page| page.intersection(&range)).map(|part| part.len()).sum();
            prop_assert_eq!(covered, len);
        }

        #[test]
        fn an_offset_leads_back_to_its_address(start in 0..1u64 << 48, len in 1..1u64 << 40, offset: u64) {
            let range = HvaRange::new(Hva::new(start), len).unwrap();
            match range.at(offset) {
                Some(address) => prop_assert_eq!(range.offset_of(address), Some(offset)),
                None => prop_assert!(offset >= len),
            }
        }

        #[test]
        fn an_intersection_lies_in_both(a in 0..1000u64, b in 0..1000u64, m in 0..1000u64, n in 0..1000u64) {
            let x = GpaRange::new(Gpa::new(a), m).unwrap();
            let y = GpaRange::new(Gpa::new(b), n).unwrap();
            prop_assert_eq!(x.intersection(&y), y.intersection(&x));
            if let Some(both) = x.intersection(&y) {
                prop_assert!(x.covers(&both) && y.covers(&both));
            }
        }
    }

    #[test]
    fn page_sizes_print_in_the_unit_people_use() {
        let sizes = [PageSize::SIZE_4K, PageSize::SIZE_2M, PageSize::SIZE_1G];
        assert_eq!(
            sizes.map(|size| size.to_string()),
            ["4 KiB", "2 MiB", "1 GiB"]
        );
        assert_eq!(PageSize::from_bytes(3 << 20), None);
        assert_eq!(PageSize::from_bytes(2048), None);
    }
}
