//! Which variant of a kernel runs a dispatch.

use crate::kernel::{Needs, Variant};
use crate::plan::Dispatch;

/// What decides between the variants of a kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice<'a> {
    /// The best that is known for the device.
    #[default]
    Best,
    /// The portable one.
    Portable,
    /// The variant of this name where the device can run it, else the portable one: for proofs and
    /// measurements.
    Named(&'a str),
}

/// The variants that an adapter with `has` can run a dispatch with, the portable one first.
pub fn candidates<'a>(
    has: &'a Needs,
    dispatch: &'a Dispatch,
) -> impl Iterator<Item = &'static Variant> + 'a {
    let elems = dispatch.elems();
    let variants = dispatch.kernel.variants.iter();
    variants.filter(move |v| v.needs.within(has) && (v.fits)(&dispatch.dims, &elems))
}

/// The variant that a choice means.
///
/// # Panics
///
/// If not even the first variant of the kernel runs here; it runs everywhere.
pub fn choose(choice: Choice<'_>, has: &Needs, dispatch: &Dispatch) -> &'static Variant {
    let mut all = candidates(has, dispatch);
    let portable = all.next().expect("the portable variant runs everywhere");
    match choice {
        Choice::Best => all.last().unwrap_or(portable),
        Choice::Portable => portable,
        Choice::Named(name) => all.find(|variant| variant.name == name).unwrap_or(portable),
    }
}
