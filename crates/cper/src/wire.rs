//! Structures as they lie in memory: little-endian, packed, of a size that the compiler checks.

/// Defines a structure of exactly `size` bytes that can be seen in place and written as it is.
macro_rules! wire {
    (
        $(#[$doc:meta])*
        pub struct $name:ident: $size:literal {
            $($(#[$field_doc:meta])* $visibility:vis $field:ident: $type:ty,)*
        }
    ) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq,
            ::zerocopy::FromBytes, ::zerocopy::IntoBytes, ::zerocopy::Immutable,
            ::zerocopy::KnownLayout, ::zerocopy::Unaligned,
        )]
        #[repr(C)]
        pub struct $name {
            $($(#[$field_doc])* $visibility $field: $type,)*
        }

        const _: () = assert!(size_of::<$name>() == $size);
    };
}

/// Accessors of a structure whose validation bits say which of its fields mean something.
macro_rules! when_valid {
    ($($(#[$doc:meta])* $name:ident: $type:ty = $bit:literal => |$this:ident| $value:expr;)*) => {
        $(
            $(#[$doc])*
            ///
            /// `None` where its validation bit is clear.
            #[inline]
            pub fn $name(&self) -> Option<$type> {
                let $this = self;
                (u64::from(self.validation) >> $bit & 1 != 0).then(|| $value)
            }
        )*
    };
}

pub(crate) use {when_valid, wire};
