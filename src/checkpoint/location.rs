//! Finds the files of a model.

use crate::disk;
use std::path::Path;

/// Returns the folder of a model's other files: the model folder itself, or the folder that contains a weights file.
pub(crate) fn folder_of(model: &Path) -> &Path {
    if !disk::is_file(model) {
        return model;
    }
    match model.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}
