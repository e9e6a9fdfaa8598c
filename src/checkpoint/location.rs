//! Finds the files of a model.

use std::path::Path;

/// Returns the folder of a model's other files: the model folder itself, or the folder that contains a weights file.
pub(crate) fn folder_of(model: &Path) -> &Path {
    if !model.is_file() {
        return model;
    }
    match model.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}
