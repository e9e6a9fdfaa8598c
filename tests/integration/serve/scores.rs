//! Log-probabilities, as evaluation harnesses read them.

use serde_json::{Value, json};
use wgpt::GenerateOptions;
use wgpt::eval::{Perplexity, Windows};

use super::{CONTEXT, Model, TEXT};

/// What a harness sends.
fn scored(prompt: &[u32], top: usize) -> Value {
    json!({ "prompt": [prompt], "temperature": 0, "max_tokens": 1, "logprobs": top, "seed": 1234, "echo": true })
}

fn list<'a>(choice: &'a Value, name: &str) -> &'a Vec<Value> {
    choice["logprobs"][name].as_array().unwrap_or_else(|| panic!("no {name} in {choice}"))
}

/// The log-likelihoods of a text are those of the engine's own evaluation, which computes whole batches.
#[test]
fn log_likelihoods_are_those_of_the_evaluation() {
    let model = Model::new();
    let (server, mut gpt) = (model.serve(&["--slots", "2"]), model.load());
    let ids = gpt.tokenizer().expect("a tokenizer").encode(&TEXT.repeat(2));
    let ids = &ids[..CONTEXT];
    let engine = gpt.batch_engine(1, CONTEXT).expect("the host has room");
    let targets = [&ids[1..], &[wgpt::ops::cross_entropy::IGNORE]].concat();
    let losses = engine.row_losses(ids, &targets).expect("the host is there");
    let mut perplexity =
        Perplexity::new(engine, None, Windows::NonOverlapping).expect("windows of the context");
    perplexity.push(ids).expect("ids of the vocabulary");
    let score = perplexity.finish().expect("enough tokens");

    let answer = server.good("/v1/completions", &scored(ids, 1));
    let choice = &answer["choices"][0];
    let logprobs = list(choice, "token_logprobs");
    assert_eq!(logprobs.len(), CONTEXT + 1);
    assert!(logprobs[0].is_null() && list(choice, "top_logprobs")[0].is_null());
    let mut sum = 0.0;
    for (i, logprob) in logprobs[1..CONTEXT].iter().enumerate() {
        let logprob = logprob.as_f64().expect("a number");
        let expected = -f64::from(losses[i]);
        assert!((logprob - expected).abs() <= 1e-4, "token {}: {logprob}, {expected}", i + 1);
        sum += logprob;
    }
    assert_eq!(score.tokens as usize, CONTEXT - 1);
    assert!((sum + score.nll).abs() <= 1e-4 * score.nll, "{sum}, {}", score.nll);
}

/// There is an entry for each token of the prompt and one more, and the largest alternative is the token's own value, bit for
/// bit, exactly where the token is the most probable one.
#[test]
fn entries_are_complete_and_the_largest_is_greedy() {
    let model = Model::new();
    let (server, mut gpt) = (model.serve(&["--slots", "2"]), model.load());
    let tokenizer = gpt.tokenizer().expect("a tokenizer").clone();
    // The prompt goes on as the model would, so that some of its tokens are the most probable ones.
    let start = tokenizer.encode("The owl");
    let options = GenerateOptions { temperature: 0.0, max_tokens: 20, ..Default::default() };
    let said = gpt.generate_ids(&start, &options).expect("a model");
    let ids = [start, said, tokenizer.encode(" née 😀 fox")].concat();
    for top in [0, 1, 5] {
        let answer = server.good("/v1/completions", &scored(&ids, top));
        let choice = &answer["choices"][0];
        let names = ["tokens", "token_logprobs", "top_logprobs", "text_offset"];
        let [tokens, logprobs, tops, offsets] = names.map(|name| list(choice, name));
        assert!([tokens, logprobs, tops, offsets].iter().all(|all| all.len() == ids.len() + 1));
        assert_eq!(answer["usage"]["completion_tokens"], 1);
        let mut greedy = 0;
        for i in 1..=ids.len() {
            let all = tops[i].as_object().expect("alternatives");
            let own = logprobs[i].as_f64().expect("a number");
            let largest =
                all.values().map(|x| x.as_f64().expect("a number")).fold(f64::MIN, f64::max);
            let name = tokens[i].as_str().expect("a text");
            assert_eq!(all[name].as_f64().map(f64::to_bits), Some(own.to_bits()));
            assert!((top.max(1)..=top + 1).contains(&all.len()), "{all:?}");
            greedy += usize::from(largest.to_bits() == own.to_bits());
        }
        // With no alternatives each token is alone.
        assert!(if top == 0 { greedy == ids.len() } else { (5..ids.len()).contains(&greedy) });
        // What was drawn is the most probable one.
        assert!(
            tops[ids.len()]
                .as_object()
                .expect("alternatives")
                .values()
                .all(|x| { x.as_f64() <= logprobs[ids.len()].as_f64() })
        );
        let text = choice["text"].as_str().expect("a text");
        // A token begins behind the whole characters of those before it.
        let mut before = tokenizer.decode_stream();
        let mut length = 0;
        for (offset, id) in offsets.iter().zip(&ids) {
            assert_eq!(*offset, length);
            length += before.push(*id).expect("an id of the vocabulary").chars().count();
        }
        assert_eq!(text.chars().take(length).collect::<String>(), {
            let whole = tokenizer.decode_lossy(&ids).expect("ids of the vocabulary");
            whole.chars().take(length).collect::<String>()
        });
    }
    // Only the prompt.
    let mut only = scored(&ids, 1);
    only["max_tokens"] = 0.into();
    let answer = server.good("/v1/completions", &only);
    assert_eq!(list(&answer["choices"][0], "tokens").len(), ids.len());
    let one = server.good("/v1/completions", &scored(&ids[..1], 1));
    assert_eq!(list(&one["choices"][0], "tokens").len(), 2);
}

/// The numbers are the same, to the last bit, whatever else is asked in the same request or at the same time.
#[test]
fn scores_do_not_depend_on_the_batch() {
    let model = Model::new();
    let (server, gpt) = (model.serve(&["--slots", "4"]), model.load());
    let ids = gpt.tokenizer().expect("a tokenizer").encode(TEXT);
    let prompts: Vec<&[u32]> = vec![&ids[..50], &ids[..20], &ids[5..90], &ids[..51], &ids[..50]];
    let alone = |prompt: &[u32]| {
        server.good("/v1/completions", &scored(prompt, 3))["choices"][0]["logprobs"].clone()
    };
    let expected: Vec<Value> = prompts.iter().map(|prompt| alone(prompt)).collect();
    let mut asked = scored(&[], 3);
    asked["prompt"] = json!(prompts);
    let answer = server.good("/v1/completions", &asked);
    let choices = answer["choices"].as_array().expect("choices");
    let got: Vec<Value> = choices.iter().map(|choice| choice["logprobs"].clone()).collect();
    assert_eq!(got, expected);
}
