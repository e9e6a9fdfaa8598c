//! The choice of the kernel variant that runs a dispatch.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::kernel::{Dims, Format, Needs, Variant};
use crate::plan::{Dispatch, Plan, View};

/// The rule that selects a variant of a kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice<'a> {
    /// The [first by promise](by_promise): a good guess if nothing was measured.
    #[default]
    Best,
    /// The portable one.
    Portable,
    /// The variant of this name if the device can run it, otherwise the portable one: for tests and
    /// measurements.
    Named(&'a str),
    /// The earlier choices, and the best guess where there is none.
    Chosen(&'a Choices),
}

/// Variants by name for classes of dispatches: those measured on a device, or those that a run started with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Choices {
    /// The variant that each [`class`] uses.
    pub taken: BTreeMap<String, String>,
    /// Variants that are never used, by their [full name](full_name): they compute a wrong result on this device, or, in the
    /// choices of a run, were not compared with their twin when it began.
    pub refused: Vec<String>,
}

impl Choices {
    /// Returns a choice for every class of a plan's dispatches that has several candidates.
    #[must_use]
    pub fn of(&self, plan: &Plan, has: &Needs) -> Choices {
        let several = plan.dispatches.iter().filter(|d| candidates(has, d).nth(1).is_some());
        let take = |d: &Dispatch| (class(d), choose(Choice::Chosen(self), has, d).name.to_owned());
        Choices { taken: several.map(take).collect(), refused: self.refused.clone() }
    }

    fn refuses(&self, dispatch: &Dispatch, variant: &Variant) -> bool {
        self.refused.iter().any(|name| *name == full_name(dispatch, variant))
    }
}

/// Returns `KERNEL VARIANT`, the unit of comparisons with twins; what is compared by itself, with its formats: `KERNEL VARIANT
/// with q8_0 in half precision`.
pub fn full_name(dispatch: &Dispatch, variant: &Variant) -> String {
    let matrix = dispatch.coded().map(|format| format!(" with {format}")).unwrap_or_default();
    let precision = if dispatch.has_half() { " in half precision" } else { "" };
    format!("{} {}{matrix}{precision}", dispatch.kernel.name, variant.name)
}

/// Returns the class of a dispatch, the unit of timing and choosing: the kernel, the formats of its arguments, each of
/// its sizes rounded up to a power of two (for a dispatch without sizes, the length of its last argument), and, one
/// digit each, which of the kernel's variants fit: so a variant chosen for one member of a class fits all of them.
///
/// All dispatches of generation that differ only in the number of rows, or of slots, have one class: that of one row.
pub fn class(dispatch: &Dispatch) -> String {
    let dims = of_one_row(&dispatch.dims);
    let Dims { B, T, C, OC, NH, V, S, M, K, N, .. } = dims;
    let sizes = [("B", B), ("T", T), ("C", C), ("OC", OC), ("NH", NH), ("V", V), ("S", S)];
    let sizes = sizes.into_iter().chain([("M", M), ("K", K), ("N", N)]);
    let mut class = dispatch.kernel.name.to_owned();
    if dispatch.has_half() || dispatch.coded().is_some() {
        let letter = |view: &View| match view.format {
            Format::F16 => 'h',
            Format::BF16 => 'b',
            Format::Q8_0 => 'q',
            _ => 'f',
        };
        class.extend([' '].into_iter().chain(dispatch.args.iter().map(letter)));
    }
    let bare = class.len();
    for (letter, size) in sizes.filter(|(_, size)| *size > 0) {
        class += &format!(" {letter}={}", size.next_power_of_two());
    }
    if class.len() == bare {
        let last = dispatch.args.last().map_or(0, |view| view.len);
        class += &format!(" n={}", last.next_power_of_two());
    }
    let formats = dispatch.formats();
    let fits = dispatch.kernel.variants.iter().map(|v| (v.fits)(&dims, &formats));
    let digits: String = fits.map(|fits| if fits { '1' } else { '0' }).collect();
    class + " fits=" + &digits
}

/// Returns the sizes by which a dispatch's variant is chosen: for generation those of one row, for any number of rows.
/// Other variants sum in another order, and the bits of a row must not depend on the other rows.
fn of_one_row(dims: &Dims) -> Dims {
    match dims.SLOTS {
        0 => *dims,
        _ => Dims { T: dims.T.min(1), M: dims.M.min(1), ..*dims },
    }
}

/// Returns the variants with which an adapter with `has` can run a dispatch, the portable one first.
pub fn candidates<'a>(
    has: &'a Needs,
    dispatch: &'a Dispatch,
) -> impl Iterator<Item = &'static Variant> + 'a {
    let (dims, formats) = (of_one_row(&dispatch.dims), dispatch.formats());
    let variants = dispatch.kernel.variants.iter();
    variants.filter(move |v| v.needs.within(has) && (v.fits)(&dims, &formats))
}

/// Returns the same variants, the one that is probably the fastest first: those for subgroups of exactly the adapter's size,
/// which were written for adapters like it, then the others; of both, the last of the kernel's list first. The portable variant
/// is the last.
pub fn by_promise(has: &Needs, dispatch: &Dispatch) -> Vec<&'static Variant> {
    let mut all: Vec<_> = candidates(has, dispatch).collect();
    all.reverse();
    let is_exact = |needs: &Needs| needs.subgroups.is_some_and(|[least, most]| least == most);
    all.sort_by_key(|variant| !is_exact(&variant.needs));
    all
}

/// Returns the variant that a choice selects.
///
/// # Panics
///
/// If not even the first variant of the kernel runs here; it should run everywhere.
pub fn choose(choice: Choice<'_>, has: &Needs, dispatch: &Dispatch) -> &'static Variant {
    let mut all = by_promise(has, dispatch);
    let portable = all.pop().expect("the portable variant runs everywhere");
    let named = |name: &str| all.iter().find(|variant| variant.name == name).copied();
    let chosen = match choice {
        Choice::Best => all.first().copied(),
        Choice::Portable => None,
        Choice::Named(name) => named(name),
        Choice::Chosen(choices) => {
            let is_sound = |variant: &&&Variant| !choices.refuses(dispatch, variant);
            let taken = choices.taken.get(&class(dispatch));
            match taken.map(|name| (name.as_str(), named(name))) {
                Some(("", _)) => None,
                Some((_, Some(variant))) if is_sound(&&variant) => Some(variant),
                _ => all.iter().find(is_sound).copied(),
            }
        }
    };
    chosen.unwrap_or(portable)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::gpu::Choice::{Best, Chosen};
    use crate::kernel::Kernel;
    use crate::ops::matmul;
    use crate::plan::Role;

    /// Returns a plan with a product of these sizes.
    fn product([m, k, n]: [u32; 3]) -> Plan {
        let mut plan = Plan::default();
        let lens = [m * k, k * n, m * n].map(|len| len as usize);
        let args = lens.map(|len| plan.buffer(Role::Activations, "x", len, Format::F32));
        plan.push(&matmul::NN, Dims { M: m, K: k, N: n, LD: n, ..Dims::default() }, &args);
        plan
    }

    #[test]
    fn classes_round_sizes_up() {
        let class = |sizes| class(&product(sizes).dispatches[0]);
        assert!(class([1000, 257, 1]).starts_with("matmul_nn M=1024 K=512 N=1 fits=10"));
        assert_eq!(class([1000, 257, 1]), class([1024, 512, 1]));
        assert_ne!(class([1000, 257, 1]), class([1025, 257, 1]));
        let halved = product([64, 64, 64]).halved(Format::F16);
        // The portable variant fits, the large tiles do not.
        let of_halves = super::class(&halved.dispatches[0]);
        assert!(of_halves.starts_with("matmul_nn hhh M=64 K=64 N=64 fits=10"), "{of_halves}");
    }

    #[test]
    fn what_was_chosen_is_taken_unless_it_is_refused_or_does_not_fit() {
        let plan = product([300, 64, 300]);
        let dispatch = &plan.dispatches[0];
        let has = &Needs::NOTHING;
        let best = choose(Best, has, dispatch).name;
        assert!(!best.is_empty(), "the kernel has more than one variant that runs everywhere");
        let mut choices = Choices::default();
        let take = |choices: &Choices| choose(Chosen(choices), has, dispatch).name;
        assert_eq!(take(&choices), best);
        choices.taken.insert(class(dispatch), String::new());
        assert_eq!(take(&choices), "");
        assert_eq!(choices.of(&plan, has).taken, choices.taken);
        choices.taken.insert(class(dispatch), "of another program".into());
        assert_eq!(take(&choices), best);
        choices.taken.insert(class(dispatch), best.into());
        choices.refused.push(format!("matmul_nn {best}"));
        assert_ne!(take(&choices), best);
    }

    /// Details that a class leaves out may decide whether a variant fits.
    #[test]
    fn what_is_chosen_for_a_class_fits_all_of_it() {
        static KERNEL: Kernel = Kernel {
            variants: &[
                matmul::NN.variants[0],
                Variant { name: "even", fits: |d, _| d.START % 2 == 0, ..matmul::NN.variants[0] },
                Variant { name: "odd", fits: |d, _| d.START % 2 == 1, ..matmul::NN.variants[0] },
            ],
            ..matmul::NN
        };
        let from = |start| {
            let mut dispatch = product([64, 64, 64]).dispatches[0].clone();
            (dispatch.kernel, dispatch.dims.START) = (&KERNEL, start);
            dispatch
        };
        let [even, also_even, odd] = [0, 2, 3].map(from);
        assert_eq!(class(&even), class(&also_even));
        assert_ne!(class(&even), class(&odd));
        let has = &Needs::NOTHING;
        let mut choices = Choices::default();
        let take = |choices: &Choices, d: &Dispatch| choose(Chosen(choices), has, d).name;
        choices.taken.insert(class(&even), "even".into());
        choices.taken.insert(class(&odd), String::new());
        assert_eq!([&even, &also_even, &odd].map(|d| take(&choices, d)), ["even", "even", ""]);
        // Even the choice of a damaged file is used only where it fits.
        choices.taken.insert(class(&odd), "even".into());
        assert_eq!(take(&choices, &odd), "odd");
    }
}
