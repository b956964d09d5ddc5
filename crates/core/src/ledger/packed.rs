//! A column of numbers in as few bits as its spread needs. The log keeps frames, causes and times in
//! such columns: a stretch of consecutive frames, a single cause, a steady clock then take no bits.

/// Numbers, each as `base + slope × index` and a rest of `width` bits. All arithmetic wraps.
#[derive(Clone)]
pub(super) struct Packed {
    pub(super) base: u64,
    pub(super) words: Box<[u64]>,
    pub(super) len: u32,
    pub(super) width: u8,
    /// Whether the numbers are kept as their distance from a line that climbs by one each.
    pub(super) slope: bool,
}

impl Packed {
    /// The column of `values`, along the line that leaves the narrower rest.
    pub(super) fn new(values: impl Iterator<Item = u64> + Clone) -> Self {
        let (flat, sloped) = (fit(values.clone(), false), fit(values.clone(), true));
        let slope = sloped.width < flat.width;
        let Fit { base, width, len } = if slope { sloped } else { flat };
        let mut words = vec![0; words_for(len, width)].into_boxed_slice();
        for (index, value) in values.enumerate() {
            let rest = value.wrapping_sub(line(base, slope, index));
            let bit = index * usize::from(width);
            if width > 0 {
                words[bit / 64] |= rest << (bit % 64);
            }
            if bit % 64 + usize::from(width) > 64 {
                words[bit / 64 + 1] |= rest >> (64 - bit % 64);
            }
        }
        Self {
            base,
            words,
            len,
            width,
            slope,
        }
    }

    /// The column `first, first + 1, …`.
    pub(super) fn climbing(first: u64, len: u32) -> Self {
        Self {
            slope: true,
            ..Self::constant(first, len)
        }
    }

    /// The column of the same number all over.
    pub(super) fn constant(value: u64, len: u32) -> Self {
        Self {
            base: value,
            words: Box::default(),
            len,
            width: 0,
            slope: false,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len as usize
    }

    pub(super) fn get(&self, index: usize) -> u64 {
        let line = line(self.base, self.slope, index);
        if self.width == 0 {
            return line;
        }
        let bit = index * usize::from(self.width);
        let mut rest = self.words[bit / 64] >> (bit % 64);
        if bit % 64 + usize::from(self.width) > 64 {
            rest |= self.words[bit / 64 + 1] << (64 - bit % 64);
        }
        line.wrapping_add(rest & self.mask())
    }

    pub(super) fn iter_from(&self, first: usize) -> impl Iterator<Item = u64> {
        (first..self.len()).map(|index| self.get(index))
    }

    /// Where `value` is, from `first` on. Columns that cannot have it are passed over at once.
    pub(super) fn position(&self, value: u64, first: usize) -> Option<usize> {
        let above = value.wrapping_sub(self.base);
        let climb = if self.slope { u64::from(self.len) } else { 0 };
        if above > self.mask().saturating_add(climb) {
            return None;
        }
        if self.width == 0 && self.slope {
            let index = above as usize;
            return (first..self.len()).contains(&index).then_some(index);
        }
        (first..self.len()).find(|&index| self.get(index) == value)
    }

    pub(super) fn heap_bytes(&self) -> usize {
        size_of_val(&*self.words)
    }

    fn mask(&self) -> u64 {
        u64::MAX
            .checked_shr(64 - u32::from(self.width))
            .unwrap_or(0)
    }
}

/// Words that `len` numbers of `width` bits fill.
pub(super) fn words_for(len: u32, width: u8) -> usize {
    (len as usize * usize::from(width)).div_ceil(64)
}

fn line(base: u64, slope: bool, index: usize) -> u64 {
    base.wrapping_add(if slope { index as u64 } else { 0 })
}

struct Fit {
    base: u64,
    width: u8,
    len: u32,
}

fn fit(values: impl Iterator<Item = u64>, slope: bool) -> Fit {
    let (mut low, mut high, mut len) = (i64::MAX, i64::MIN, 0);
    for value in values {
        // Signed, so that numbers close to zero stay close together below the line.
        let rest = value.wrapping_sub(line(0, slope, len as usize)) as i64;
        (low, high, len) = (low.min(rest), high.max(rest), len + 1);
    }
    let spread = if len == 0 {
        0
    } else {
        high.wrapping_sub(low) as u64
    };
    Fit {
        base: if len == 0 { 0 } else { low as u64 },
        width: (64 - spread.leading_zeros()) as u8,
        len,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_column_gives_back_what_went_in(
            base: u64,
            spread in 0..64u32,
            climb: bool,
            rests in prop::collection::vec(any::<u64>(), 0..300),
        ) {
            let values: Vec<u64> = rests
                .iter()
                .enumerate()
                .map(|(i, rest)| (rest >> spread).wrapping_add(line(base, climb, i)))
                .collect();
            let column = Packed::new(values.iter().copied());
            prop_assert!(column.iter_from(0).eq(values.iter().copied()));
            for (index, &value) in values.iter().enumerate() {
                prop_assert_eq!(column.position(value, index), Some(index));
            }
        }
    }

    #[test]
    fn consecutive_and_equal_numbers_take_no_bits() {
        assert_eq!(Packed::new(7..5000).words.len(), 0);
        assert_eq!(Packed::new(std::iter::repeat_n(7, 5000)).words.len(), 0);
    }
}
