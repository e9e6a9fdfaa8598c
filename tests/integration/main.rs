//! Every integration test, in one binary, so that one device serves them all.

mod common;
mod data;
mod tokenizer;
