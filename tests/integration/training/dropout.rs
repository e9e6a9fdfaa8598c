//! Does every micro-batch of every update draw dropout masks of its own?

use wgpt::backend::Device;
use wgpt::data::Tokens;
use wgpt::{Event, Gpt, TrainConfig, Trainer};

use super::{devices, tiny};

/// The losses of two updates that change nothing, over a text whose windows are all alike: what they differ by
/// is what dropout drops.
fn losses(device: &Device, dropout: f64, grad_accum: usize) -> [f32; 2] {
    let config = TrainConfig {
        max_iters: 2,
        batch_size: 2,
        grad_accum,
        dropout,
        learning_rate: 0.0,
        log_every: 1,
        eval_every: 0,
        ..TrainConfig::default()
    };
    let gpt = Gpt::new(tiny(), device.clone(), 5).unwrap();
    let mut trainer = Trainer::new(gpt, Tokens::from_ids(vec![7; 400]), config).unwrap();
    let mut losses = vec![];
    trainer
        .run(&mut |event| {
            if let Event::Step(report) = event {
                losses.push(report.loss.unwrap());
            }
        })
        .unwrap();
    losses.try_into().unwrap()
}

#[test]
fn every_micro_batch_drops_other_activations() {
    for (name, device) in devices() {
        let [plain, next] = losses(&device, 0.0, 1);
        for loss in losses(&device, 0.0, 2).into_iter().chain([next]) {
            assert!((loss - plain).abs() <= 1e-5, "{name}: without dropout {loss} is {plain}");
        }
        let [first, second] = losses(&device, 0.5, 1);
        assert!((first - second).abs() > 1e-3, "{name}: two updates, {first} and {second}");
        // The mean over two micro-batches, the first of which draws what the update of one draws; two alike would
        // differ from it by rounding alone, which is 1e-6.
        let mean = losses(&device, 0.5, 2)[0];
        assert!((mean - first).abs() > 5e-5, "{name}: two micro-batches, {first} and {mean}");
        assert_eq!(losses(&device, 0.5, 1), [first, second], "{name}: all of it follows the seed");
    }
}
