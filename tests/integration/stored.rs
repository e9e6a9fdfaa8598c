//! Models whose matrices are stored in halves or blocks: what they compute, and what they refuse.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;
use wgpt::backend::Device;
use wgpt::config::{Precision, WeightFormat};
use wgpt::engine::Tensor;
use wgpt::plan::Role;
use wgpt::{GenerateOptions, Gpt};

use crate::common::{cpu_in_bf16, full_gpu, oracle};
use crate::families::families;

const FORMATS: [WeightFormat; 3] = [WeightFormat::F16, WeightFormat::Bf16, WeightFormat::Q8_0];

/// Folders of models of every family.
fn models() -> Vec<PathBuf> {
    let families = fs::read_dir(families()).expect("the oracle is there");
    let all = fs::read_dir(oracle()).expect("the oracle is there").chain(families);
    let mut folders: Vec<_> = all.map(|entry| entry.expect("a folder").path()).collect();
    folders.retain(|folder| folder.join("config.json").exists());
    folders.sort();
    assert!(folders.len() > 10, "{folders:?}");
    folders
}

fn load(folder: &Path, format: WeightFormat) -> Gpt {
    let mut gpt = Gpt::load(folder, Device::Cpu).expect("a sound model");
    gpt.set_weights(format);
    gpt
}

/// Matrices whose sums are no multiple of 32 long are named.
#[test]
fn matrices_without_blocks_are_named() {
    let mut seen = [0, 0];
    for folder in models() {
        let gpt = load(&folder, WeightFormat::Q8_0);
        let others = gpt.without_blocks();
        let width = gpt.config().n_embd;
        assert_eq!(
            others.is_empty(),
            width.is_multiple_of(32) && gpt.config().n_inner().is_multiple_of(32)
        );
        seen[usize::from(others.is_empty())] += 1;
        assert!(load(&folder, WeightFormat::Bf16).without_blocks().is_empty());
    }
    assert!(seen[0] > 0, "{seen:?}");
}

const BATCH: [usize; 2] = [2, 12];

/// Returns the losses of a batch.
fn losses(gpt: &mut Gpt) -> Vec<f32> {
    let [batch, seq] = BATCH;
    let tokens: Vec<u32> = (0..batch * seq).map(|i| (i * 7 % 23) as u32).collect();
    let engine = gpt.batch_engine(batch, seq).expect("a CPU is there");
    let targets: Vec<u32> = tokens.iter().map(|token| (token + 5) % 23).collect();
    engine.row_losses(&tokens, &targets).expect("a CPU is there")
}

/// Sets the parameters of a model in single precision to those that another one has stored.
fn take_rounded(gpt: &mut Gpt, stored: &mut Gpt) {
    let [batch, seq] = BATCH;
    let (to, from) =
        (gpt.batch_engine(batch, seq).unwrap(), stored.batch_engine(batch, seq).unwrap());
    for param in to.program().params.clone().iter() {
        let theirs = from.program().param(&param.name).unwrap().clone();
        let numbers = from.param_data(&theirs, Tensor::Value).unwrap();
        to.write_param(param, Tensor::Value, |start, out| {
            out.copy_from_slice(&numbers[start..][..out.len()]);
            Ok(())
        })
        .unwrap();
    }
}

#[test]
fn every_family_computes_what_the_rounded_numbers_give_in_single_precision() {
    for folder in models() {
        let whole = losses(&mut load(&folder, WeightFormat::F32));
        let size = whole.iter().fold(0.0, |most: f32, x| most.max(x.abs()));
        for format in FORMATS {
            let (mut stored, mut rounded) =
                (load(&folder, format), load(&folder, WeightFormat::F32));
            let got = losses(&mut stored);
            take_rounded(&mut rounded, &mut stored);
            let want = losses(&mut rounded);
            // What a checkpoint has in halves may be the same in halves.
            let what = format!("{} {format:?}", folder.display());
            assert!(got != whole || folder.to_string_lossy().ends_with("16"), "{what}");
            for (got, want) in got.iter().zip(&want) {
                assert!((got - want).abs() <= 1e-5 * size, "{what}: {got}, want {want}");
            }
        }
    }
}

/// Models of each family, with and without matrices that cannot be divided into blocks.
fn one_of_each() -> Vec<PathBuf> {
    let mut seen = BTreeSet::new();
    let mut folders = models();
    folders.retain(|folder| {
        let gpt = load(folder, WeightFormat::Q8_0);
        seen.insert((gpt.config().blocks.family.clone(), gpt.without_blocks().is_empty()))
    });
    folders
}

/// A GPU reads the same numbers, in either precision, and continues a text in the same way.
#[test]
fn a_gpu_computes_what_the_rounded_numbers_give() {
    let Some(gpu) = full_gpu() else { return };
    let gpu = Device::Gpu(Arc::clone(gpu));
    assert_gives_what_is_rounded(&gpu, &[(Precision::F32, 1e-5), (Precision::Mixed, 1e-2)]);
}

/// So does a CPU whose activations are in bf16.
#[test]
fn a_cpu_in_bf16_computes_what_the_rounded_numbers_give() {
    assert_gives_what_is_rounded(&cpu_in_bf16(), &[(Precision::Mixed, 8e-2)]);
}

fn assert_gives_what_is_rounded(device: &Device, precisions: &[(Precision, f32)]) {
    let options = GenerateOptions { max_tokens: 6, temperature: 0.0, ..Default::default() };
    for folder in one_of_each() {
        for format in FORMATS {
            let (mut stored, mut rounded) =
                (load(&folder, format), load(&folder, WeightFormat::F32));
            take_rounded(&mut rounded, &mut stored);
            let want = losses(&mut rounded);
            let size = want.iter().fold(0.0, |most: f32, x| most.max(x.abs()));
            let ids = rounded.generate_ids(&[1, 2, 3], &options).unwrap();
            for &(precision, most) in precisions {
                let mut here = Gpt::load(&folder, device.clone()).unwrap();
                here.set_weights(format);
                here.set_precision(precision);
                let got = losses(&mut here);
                let what = format!("{} {format:?} {precision:?}", folder.display());
                for (got, want) in got.iter().zip(&want) {
                    assert!((got - want).abs() <= most * size, "{what}: {got}, want {want}");
                }
                let got = here.generate_ids(&[1, 2, 3], &options).unwrap();
                assert!(got == ids || precision == Precision::Mixed, "{what}: {got:?}, {ids:?}");
            }
        }
    }
}

/// Parameters come back as the format rounds them, also those that are stored the other way round.
#[test]
fn what_is_stored_is_the_rounded_number() {
    for folder in models() {
        for (format, most) in FORMATS.into_iter().zip([1e-3, 4e-3, 5e-3]) {
            let (mut whole, mut stored) = (load(&folder, WeightFormat::F32), load(&folder, format));
            let (whole, stored) = (whole.engine().unwrap(), stored.engine().unwrap());
            for param in whole.program().params.clone().iter() {
                let theirs = stored.program().param(&param.name).unwrap().clone();
                let want = whole.param_data(param, Tensor::Value).unwrap();
                let got = stored.param_data(&theirs, Tensor::Value).unwrap();
                let size = want.iter().fold(0.0, |size: f32, x| size.max(x.abs()));
                for (got, want) in got.iter().zip(&want) {
                    let what = format!("{} {} {format:?}", folder.display(), param.name);
                    assert!((got - want).abs() <= most * size, "{what}: {got}, want {want}");
                }
            }
        }
    }
}

/// A row has the same bits alone and among others, and parameters take less memory.
#[test]
fn continuations_are_those_of_one_slot_and_take_less_memory() {
    let folder = oracle().join("gpt2_tiny_a");
    let options = GenerateOptions { max_tokens: 8, seed: 5, ..GenerateOptions::default() };
    let mut bytes = vec![];
    for format in [WeightFormat::F32].into_iter().chain(FORMATS) {
        let mut gpt = load(&folder, format);
        let together = gpt.sample_ids(&[1, 2, 3], &options, 3, &mut |_, _| ()).unwrap();
        let mut one = load(&folder, format);
        let alone = one.sample_ids(&[1, 2, 3], &options, 1, &mut |_, _| ()).unwrap();
        assert_eq!(alone[0], together[0], "{format:?}");
        bytes.push(one.engine().unwrap().program().plan.bytes(Role::Parameters));
    }
    let [whole, halves, uppers, blocks] = bytes[..] else { panic!("{bytes:?}") };
    assert!(halves * 3 < whole * 2 && uppers == halves && blocks <= uppers, "{bytes:?}");
}

#[test]
fn a_number_that_a_format_cannot_hold_is_refused_by_name() {
    let temp = tempfile::tempdir().unwrap();
    let from = oracle().join("gpt2_tiny_a");
    for entry in fs::read_dir(&from).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, temp.path().join(path.file_name().unwrap())).unwrap();
    }
    let file = temp.path().join("model.safetensors");
    let mut bytes = fs::read(&file).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let (name, tensor) =
        header.as_object().unwrap().iter().find(|(name, _)| name.ends_with("c_fc.weight")).unwrap();
    assert_eq!(tensor["dtype"], "F32");
    let start = 8 + length + tensor["data_offsets"][0].as_u64().unwrap() as usize;
    bytes[start..start + 4].copy_from_slice(&70_000.0_f32.to_le_bytes());
    fs::write(&file, bytes).unwrap();
    assert!(load(temp.path(), WeightFormat::Bf16).engine().is_ok());
    let error = load(temp.path(), WeightFormat::F16).engine().err().expect("it is too large");
    let text = error.to_string();
    assert!(text.contains(name.trim_start_matches("transformer.")), "{text}");
    assert!(text.contains("7e4") && text.contains("f16 holds, 6.5504e4"), "{text}");
}
