//! What the tests share: where the reference values are.

use std::path::PathBuf;

/// The folder of PyTorch's reference values: `WGPT_ORACLE`, or `tests/oracle`.
pub fn oracle() -> PathBuf {
    std::env::var_os("WGPT_ORACLE").map_or_else(|| PathBuf::from("tests/oracle"), PathBuf::from)
}
