//! Every integration test, in one binary, so that one device serves them all.

// Some tests and what they need are for Linux alone.
#![cfg_attr(not(target_os = "linux"), allow(dead_code, unused_imports))]

mod attention;
mod bounds;
mod chat;
mod checkpoint;
mod cli;
mod common;
mod cpu_kernels;
mod data;
mod device;
mod edges;
mod end_of_text;
mod errors;
mod eval;
mod export;
mod families;
mod finetune;
mod gguf;
mod grad;
mod halves;
mod hub;
mod kernels;
mod killed;
mod layernorm;
mod layers;
mod loading;
mod local;
mod lora;
mod mixed;
mod new_models;
mod once;
mod oracle;
mod oracle_grids;
mod oracle_ops;
mod peft;
mod profiles;
mod rank_batch;
mod rank_kinds;
mod ranks;
mod run_folder;
mod scored;
mod sequences;
#[cfg(all(target_os = "linux", feature = "serve"))]
mod serve;
mod staged;
mod stages;
mod stored;
mod synced;
mod systems;
mod tokenizer;
mod training;
mod tuning;
mod wiring;
