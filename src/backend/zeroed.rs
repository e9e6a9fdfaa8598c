//! Memory that is zero until it is written.

use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

use bytemuck::Pod;
use memmap2::MmapMut;

/// The size from which memory is asked for in large pages: that of some.
const LARGE: usize = 8 << 20;

/// Numbers in memory that the system gives when it is first accessed.
pub(super) enum Zeroed<T> {
    /// In pages of the usual size.
    Usual(Vec<T>),
    /// Whole pages, with their number of elements.
    Large(MmapMut, usize, PhantomData<T>),
}

impl<T: Pod> Zeroed<T> {
    pub(super) fn new(len: usize) -> Zeroed<T> {
        Zeroed::Usual(bytemuck::zeroed_vec(len))
    }

    /// Asks for large pages, where the system has them: what is read from end to end, again and again, is then read about one
    /// and a half times as fast, since the processor has to look up fewer addresses. All of it should be in use, since a page
    /// is given as a whole.
    pub(super) fn in_large_pages(len: usize) -> Zeroed<T> {
        let bytes = len * size_of::<T>();
        match if bytes >= LARGE { large(bytes) } else { None } {
            Some(memory) => Zeroed::Large(memory, len, PhantomData),
            None => Zeroed::new(len),
        }
    }
}

/// Returns memory in large pages, if the system can give it.
#[cfg(target_os = "linux")]
fn large(bytes: usize) -> Option<MmapMut> {
    let memory = MmapMut::map_anon(bytes).ok()?;
    memory.advise(memmap2::Advice::HugePage).ok()?;
    Some(memory)
}

#[cfg(not(target_os = "linux"))]
fn large(_: usize) -> Option<MmapMut> {
    None
}

impl<T: Pod> Deref for Zeroed<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match self {
            Zeroed::Usual(all) => all,
            Zeroed::Large(memory, len, _) => bytemuck::cast_slice(&memory[..len * size_of::<T>()]),
        }
    }
}

impl<T: Pod> DerefMut for Zeroed<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        match self {
            Zeroed::Usual(all) => all,
            Zeroed::Large(memory, len, _) => {
                bytemuck::cast_slice_mut(&mut memory[..*len * size_of::<T>()])
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{LARGE, Zeroed};

    #[test]
    fn pages_of_any_size_are_zero_and_keep_what_is_written() {
        for len in [0, 1, 1000, LARGE / 4 - 1, LARGE / 4, LARGE / 4 + 3] {
            for mut all in [Zeroed::<u32>::new(len), Zeroed::in_large_pages(len)] {
                assert!(all.len() == len && all.iter().all(|x| *x == 0), "{len}");
                all.iter_mut().zip(1..).for_each(|(x, i)| *x = i);
                assert!(all.iter().zip(1..).all(|(x, i)| *x == i), "{len}");
            }
        }
    }
}
