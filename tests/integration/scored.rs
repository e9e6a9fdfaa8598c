//! Are log-probabilities of a text's tokens those of the model, and the new tokens those of `generate`?

use wgpt::backend::Device;
use wgpt::scored::{Token, continue_scored};
use wgpt::{GenerateOptions, Gpt, GptConfig};

use crate::common;

const PROMPT: [u32; 11] = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5];

fn model(device: Device) -> Gpt {
    let config = GptConfig {
        n_layer: 2,
        n_head: 2,
        n_embd: 16,
        n_positions: 12,
        vocab_size: 40,
        ..GptConfig::small()
    };
    Gpt::new(config, device, 5).unwrap()
}

fn scored(gpt: &mut Gpt, prompt: &[u32], options: &GenerateOptions) -> Vec<Token> {
    let uses = gpt.uses_of_serving(1);
    let engine = gpt.renew_engine(uses).unwrap();
    let mut tokens = vec![];
    let count = continue_scored(engine, prompt, options, &[], 3, &mut |token| {
        tokens.push(token);
        true
    });
    assert_eq!(count.unwrap(), options.max_tokens);
    tokens
}

/// They go on beyond the context, as `generate` does.
#[test]
fn tokens_are_those_of_generate() {
    let devices = [Some(Device::Cpu), common::gpu().map(|gpu| Device::Gpu(gpu.clone()))];
    for device in devices.into_iter().flatten() {
        let mut gpt = model(device);
        for temperature in [0.0, 0.9] {
            let options = GenerateOptions {
                max_tokens: 20,
                temperature,
                repetition_penalty: 1.2,
                ..GenerateOptions::default()
            };
            for prompt in [&PROMPT[..], &PROMPT.repeat(2)] {
                let wanted = gpt.generate_ids(prompt, &options).unwrap();
                let tokens = scored(&mut gpt, prompt, &options);
                let given: Vec<u32> = tokens.iter().filter(|t| t.is_given).map(|t| t.id).collect();
                let drawn: Vec<u32> = tokens.iter().filter(|t| !t.is_given).map(|t| t.id).collect();
                assert_eq!((&given[..], drawn), (prompt, wanted), "temperature {temperature}");
            }
        }
    }
}

#[test]
fn log_probabilities_are_those_of_the_losses() {
    let mut gpt = model(Device::Cpu);
    let options = GenerateOptions { max_tokens: 0, ..GenerateOptions::default() };
    let tokens = scored(&mut gpt, &PROMPT, &options);
    assert_eq!(tokens[0].scored, None);
    let engine = gpt.batch_engine(1, PROMPT.len() - 1).unwrap();
    let losses = engine.row_losses(&PROMPT[..PROMPT.len() - 1], &PROMPT[1..]).unwrap();
    for (token, loss) in tokens[1..].iter().zip(losses) {
        let scored = token.scored.as_ref().unwrap();
        assert!((scored.logprob + f64::from(loss)).abs() < 1e-5, "{scored:?}, loss {loss}");
        assert_eq!(scored.top.len(), 3);
    }
}

#[test]
fn a_listener_ends_it_and_bad_prompts_are_named() {
    let mut gpt = model(Device::Cpu);
    let uses = gpt.uses_of_serving(1);
    let engine = gpt.renew_engine(uses).unwrap();
    let options = GenerateOptions { max_tokens: 9, ..GenerateOptions::default() };
    let mut heard = 0;
    let count = continue_scored(engine, &PROMPT, &options, &[], 0, &mut |_| {
        heard += 1;
        heard < PROMPT.len() + 2
    });
    assert_eq!((count.unwrap(), heard), (2, PROMPT.len() + 2));
    for (prompt, wanted) in [(&[][..], "no text"), (&[3, 40], "token 40")] {
        let error = continue_scored(engine, prompt, &options, &[], 0, &mut |_| true).unwrap_err();
        assert!(error.to_string().contains(wanted), "{error}");
    }
}
