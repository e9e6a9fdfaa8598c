//! Where the files of a model are.

use std::path::Path;

/// The folder with what belongs to a model beside its weights: the model folder itself, or that of a weights file.
pub(crate) fn folder_of(model: &Path) -> &Path {
    if !model.is_file() {
        return model;
    }
    match model.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}
