//! The variants of kernels that a run takes on each kind of adapter among its ranks.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::variants::Choices;

/// The name of the kind in a file of a version that did not name it.
const UNNAMED: &str = "";

/// The variants that a run takes, by the kind of adapter: its [name with its API](super::GpuDevice::name). Another variant sums
/// in another order, so that all ranks of a kind take the same ones, from the run's beginning to its end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Stored", into = "BTreeMap<String, Choices>")]
pub struct Kinds {
    by_name: BTreeMap<String, Choices>,
}

/// What a file has: the choices by kind, or in older versions those of the first rank alone.
#[derive(Deserialize)]
#[serde(untagged)]
enum Stored {
    ByName(BTreeMap<String, Choices>),
    OfFirst(Choices),
}

impl From<Stored> for Kinds {
    fn from(stored: Stored) -> Kinds {
        let by_name = match stored {
            Stored::ByName(by_name) => by_name,
            Stored::OfFirst(choices) => BTreeMap::from([(UNNAMED.to_owned(), choices)]),
        };
        Kinds { by_name }
    }
}

impl From<Kinds> for BTreeMap<String, Choices> {
    fn from(kinds: Kinds) -> BTreeMap<String, Choices> {
        kinds.by_name
    }
}

impl Kinds {
    /// Returns the choices of a kind.
    pub fn of(&self, name: &str) -> Option<&Choices> {
        self.by_name.get(name)
    }

    /// Adds the choices of a kind, or replaces them.
    pub fn put(&mut self, name: &str, choices: Choices) {
        self.by_name.insert(name.to_owned(), choices);
    }

    /// Gives choices without a name, which were those of the first rank, the name of its kind; if it has some already, they
    /// stay.
    pub fn name_unnamed(&mut self, name: &str) {
        if !self.by_name.contains_key(name)
            && let Some(choices) = self.by_name.remove(UNNAMED)
        {
            self.put(name, choices);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choices(variant: &str) -> Choices {
        let taken = BTreeMap::from([("matmul_nn M=64".to_owned(), variant.to_owned())]);
        Choices { taken, refused: vec!["gelu vectors".to_owned()] }
    }

    #[test]
    fn each_kind_has_its_choices_again() {
        let mut kinds = Kinds::default();
        kinds.put("one (Vulkan)", choices("tiles"));
        kinds.put("another (Vulkan)", choices("vectors"));
        let text = serde_json::to_string(&kinds).unwrap();
        let mut read: Kinds = serde_json::from_str(&text).unwrap();
        assert_eq!(read, kinds);
        assert_eq!(read.of("another (Vulkan)"), Some(&choices("vectors")));
        assert_eq!(read.of("one (Metal)"), None);
        // There is nothing without a name.
        read.name_unnamed("one (Metal)");
        assert_eq!(read, kinds);
        assert_eq!(serde_json::from_str::<Kinds>("{}").unwrap(), Kinds::default());
    }

    #[test]
    fn the_choices_of_an_older_version_are_those_of_the_first_rank() {
        let text = serde_json::to_string(&choices("tiles")).unwrap();
        let mut kinds: Kinds = serde_json::from_str(&text).unwrap();
        assert_eq!(kinds.of("one (Vulkan)"), None);
        kinds.name_unnamed("one (Vulkan)");
        assert_eq!(kinds.of("one (Vulkan)"), Some(&choices("tiles")));
        kinds.name_unnamed("another (Vulkan)");
        assert_eq!(kinds.of("another (Vulkan)"), None);
        assert!(serde_json::from_str::<Kinds>("[]").is_err());
    }
}
