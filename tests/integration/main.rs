//! Every integration test, in one binary, so that one device serves them all.

mod common;
mod cpu_kernels;
mod data;
mod tokenizer;
