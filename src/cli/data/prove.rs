//! `wgpt data prove`: packed conversations see nothing of each other, bit by bit.

use serde_json::json;
use wgpt::check::packing::{Proof, prove};
use wgpt::config::Optimizer;
use wgpt::data::{ChatEncoding, Packed, Tokens};
use wgpt::model::Uses;
use wgpt::{Error, Result};

use super::common::{ChatArgs, Reading};
use crate::cli::options::{DeviceArgs, PrecisionArgs, load, open};
use crate::cli::outcome::Outcome;
use crate::cli::progress::Progress;
use crate::cli::{number, output};

/// Prove on a device that packed conversations see nothing of each other: replacing all others, or labels that are not learned,
/// changes no bit of a conversation's loss and gradients
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  wgpt data prove chats.jsonl --model runs/NAME/best
  wgpt data prove chats.jsonl --model runs/NAME/best --device gpu --precision mixed --conversations 20")]
pub struct Args {
    #[command(flatten)]
    chats: ChatArgs,
    /// Examine at most N conversations
    #[arg(long, value_name = "N", default_value_t = 8)]
    conversations: usize,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    precision: PrecisionArgs,
}

/// Windows that are examined at once: a conversation in another sequence must not be seen either.
const WINDOWS: usize = 2;

/// Examines the conversations, and says what changed.
///
/// # Errors
///
/// If a conversation is faulty, no two have room in a window, or the device cannot hold the model.
pub fn run(args: &Args) -> Result<Outcome> {
    if args.conversations == 0 {
        return Err(Error::usage("--conversations is 0, must be at least 1"));
    }
    let Reading { folder, files, tokenizer, template, context } = args.chats.reading()?;
    let (template, tokenizer, long) = (&template, &tokenizer, args.chats.long);
    let encoding = ChatEncoding { template, tokenizer, context, long };
    let mut ids = vec![];
    let mut take = |more: &[u32]| {
        ids.extend_from_slice(more);
        Ok(())
    };
    encoding.encode(&files, &mut take, &mut |_| {})?;
    let tokens = Tokens::from_conversations(ids, None).named(files[0].display().to_string());
    let packed = Packed::new(&tokens, &(0..tokens.len()), context)?;
    let device = open(args.device.device)?;
    let precision = args.precision.on(&device)?;
    let mut gpt = load(&folder, device)?;
    let uses = Uses {
        batch: WINDOWS,
        seq: context,
        training: Some(Optimizer::Sgd),
        precision,
        ..Uses::default()
    };
    let engine = gpt.renew_engine(uses)?;
    let mut progress = Progress::new();
    let most = args.conversations as u64;
    let mut seen = |done: usize| progress.count("examining conversations", done as u64, most);
    let proof = prove(engine, &tokens, &packed, args.conversations, &mut seen)?;
    progress.end();
    report(&proof, &engine.describe(), args.json);
    Ok(if proof.holds() { Outcome::Good } else { Outcome::Bad })
}

fn report(proof: &Proof, device: &str, json: bool) {
    let Proof { conversations, numbers, replaced, labels, loss_change, gradient_change, control } =
        *proof;
    if json {
        output::json(&json!({
            "device": device,
            "conversations": conversations,
            "numbers": numbers,
            "other_tokens": { "replaced": replaced, "loss_change": loss_change[0], "gradient_change": gradient_change[0] },
            "labels_not_learned": { "replaced": labels, "loss_change": loss_change[1], "gradient_change": gradient_change[1] },
            "learned_label": { "least_loss_change": control },
            "holds": proof.holds(),
        }));
        return;
    }
    let changed = |what: &str, n: usize, case: usize| {
        let n = number::thousands(n as u64);
        let (loss, gradient) = (loss_change[case], gradient_change[case]);
        output::line(&format!(
            "{what:<40} {n:>9} replaced: the loss changes by {loss:?}, gradients by {gradient:?}"
        ));
    };
    let (numbers, n) = (number::thousands(numbers as u64), conversations);
    output::line(&format!(
        "{n} conversations on {device}, the loss and all gradients of each ({numbers} numbers):"
    ));
    changed("tokens of other conversations, padding", replaced, 0);
    changed("labels that are not learned", labels, 1);
    output::line(&format!(
        "{:<40} {n:>9} replaced: the loss changes by {control:.3e} at least",
        "a label that is learned"
    ));
    output::line(match proof.holds() {
        true => "They see nothing of each other: each of the changes is exactly 0.",
        false => "FAILED: a change should be exactly 0, or one that should not is.",
    });
}
