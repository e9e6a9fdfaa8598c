//! Notices to the user about kernels that are timed, refused or forgotten.

use std::fmt;
use std::path::PathBuf;

/// A notice to report while kernels are chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Kernels are about to be compared with their twins and timed.
    Tuning {
        /// The adapter.
        device: String,
        /// The number of classes of dispatches to time.
        classes: usize,
    },
    /// One more variant is being compared or timed.
    Working {
        /// What is done with which variant of which kernel, for which sizes.
        what: String,
        /// The comparisons and timings that are done.
        done: usize,
        /// All comparisons and timings.
        total: usize,
    },
    /// The time for tuning at a start is over.
    Left {
        /// The number of classes of dispatches that are not timed completely.
        classes: usize,
        /// The number of kernels that run in their portable form, since there was no time to compare another one.
        portable: usize,
    },
    /// A variant computes a wrong result and is never used.
    Refused {
        /// The name of the variant's kernel, then the variant's own name.
        variant: String,
        /// The fault.
        fault: String,
    },
    /// The measurements could not be written to the cache folder.
    NotKept {
        /// The error of the system.
        cause: String,
    },
    /// A file of the cache was ignored.
    Ignored {
        /// The file.
        path: PathBuf,
        /// The problem with it.
        cause: String,
    },
}

impl Notice {
    pub(super) fn ignored(path: PathBuf, cause: impl fmt::Display) -> Notice {
        Notice::Ignored { path, cause: cause.to_string() }
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Notice::Tuning { device, classes } => {
                write!(f, "timing the kernels of {device} ({classes} shapes), once")
            }
            Notice::Working { what, done, total } => write!(f, "{what} ({done} of {total} done)"),
            Notice::Left { classes, portable } => {
                write!(f, "{classes} shapes are not timed yet")?;
                if *portable > 0 {
                    write!(f, ", and {portable} kernels run in their slow portable form")?;
                }
                write!(f, "; the next start goes on, and `wgpt tune` does all at once")
            }
            Notice::Refused { variant, fault } => {
                write!(f, "the kernel {variant} is not right on this device and not used: {fault}")
            }
            Notice::NotKept { cause } => {
                write!(f, "the next start times the kernels again: {cause}")
            }
            Notice::Ignored { path, cause } => {
                write!(f, "{} is passed over and written anew: {cause}", path.display())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notices_say_what_to_know() {
        let notice = Notice::ignored("kernels.json".into(), "it is damaged");
        assert!(
            notice.to_string().contains("kernels.json") && notice.to_string().contains("damaged")
        );
        let tuning = Notice::Tuning { device: "a GPU".into(), classes: 3 };
        assert!(tuning.to_string().contains("a GPU") && tuning.to_string().contains('3'));
        let left = |portable| Notice::Left { classes: 3, portable }.to_string();
        assert!(left(0).starts_with("3 shapes") && left(0).contains("wgpt tune"));
        assert!(left(2).contains("2 kernels") && !left(0).contains("kernels"));
    }
}
