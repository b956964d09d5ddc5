//! Numbers made of fields, some of which mean something: the processor sections are full of them, and
//! text and JSON want the same names for them.

/// A field of a 64-bit number whose low bits say which fields mean something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BitField {
    /// Its name, that of the JSON form.
    pub name: &'static str,
    /// The bit that says whether it means something.
    pub valid: u32,
    /// Its lowest bit.
    pub low: u32,
    /// How many bits it has.
    pub width: u32,
    /// What its values are.
    pub values: Values,
}

/// What the values of a field are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Values {
    /// A number.
    Number,
    /// Yes or no.
    Boolean,
    /// One of these, by number; numbers without a name have the other.
    Named(&'static [&'static str], &'static str),
}

impl BitField {
    /// Its value in `number`; `None` where it means nothing.
    pub const fn get(&self, number: u64) -> Option<u64> {
        match number >> self.valid & 1 {
            0 => None,
            _ => Some(number >> self.low & self.mask()),
        }
    }

    /// `number` with this field set to the low bits of `value`, and meaning something.
    pub const fn set(&self, number: u64, value: u64) -> u64 {
        let cleared = number & !(self.mask() << self.low);
        cleared | (value & self.mask()) << self.low | 1 << self.valid
    }

    /// The name of a value; `None` where values of this field have no names.
    pub fn value_name(&self, value: u64) -> Option<&'static str> {
        let Values::Named(names, other) = self.values else {
            return None;
        };
        let named = usize::try_from(value)
            .ok()
            .and_then(|place| names.get(place));
        Some(
            named
                .copied()
                .filter(|name| !name.is_empty())
                .unwrap_or(other),
        )
    }

    const fn mask(&self) -> u64 {
        (1 << self.width) - 1
    }
}

/// A field of one bit.
pub(crate) const fn flag(name: &'static str, valid: u32, low: u32) -> BitField {
    BitField {
        name,
        valid,
        low,
        width: 1,
        values: Values::Boolean,
    }
}

/// A field whose values have names.
pub(crate) const fn named(
    name: &'static str,
    valid: u32,
    low: u32,
    width: u32,
    values: Values,
) -> BitField {
    BitField {
        name,
        valid,
        low,
        width,
        values,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_set_with_its_validity_and_leaves_the_others_alone() {
        let field = named("level", 2, 22, 3, Values::Number);
        assert_eq!(field.get(!4), None);
        let number = field.set(1 << 63 | 7 << 22, 5);
        assert_eq!(number, 1 << 63 | 5 << 22 | 4);
        assert_eq!(field.get(number), Some(5));
    }
}
