//! Is the data what it should be? Stories, files and folders, downloads, token files, batches.

#[path = "data/downloads.rs"]
mod downloads;
#[path = "data/formats.rs"]
mod formats;
#[path = "data/shards.rs"]
mod shards;
#[path = "data/sources.rs"]
mod sources;
#[path = "data/stories.rs"]
mod stories;
#[path = "data/tokens.rs"]
mod tokens;
