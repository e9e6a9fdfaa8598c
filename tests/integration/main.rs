//! Every integration test, in one binary, so that one device serves them all.

mod bounds;
mod checkpoint;
mod cli;
mod common;
mod cpu_kernels;
mod data;
mod device;
mod eval;
mod export;
mod finetune;
mod grad;
mod hub;
mod kernels;
mod killed;
mod layernorm;
mod loading;
mod lora;
mod mixed;
mod oracle;
mod oracle_ops;
mod peft;
mod run_folder;
mod tokenizer;
mod training;
mod tuning;
mod wiring;
