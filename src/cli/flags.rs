//! The names on the command line of the settings that the library's errors name.

/// The library's name of a setting, and its name on the command line.
const NAMES: &[(&str, &str)] = &[
    ("weights", "--weights"),
    ("allow_origin", "--allow-origin"),
    ("api_key_file", "--api-key-file"),
    ("arch", "--arch"),
    ("batch_size", "--batch-size"),
    ("beta1", "--beta1"),
    ("beta2", "--beta2"),
    ("context", "--context"),
    ("data", "--data"),
    ("device", "--device"),
    ("dropout", "--dropout"),
    ("eval_every", "--eval-every"),
    ("eval_iters", "--eval-iters"),
    ("freeze", "--freeze"),
    ("gguf", "--gguf"),
    ("grad_accum", "--grad-accum"),
    ("zero", "--zero"),
    ("patience", "--patience"),
    ("pipeline", "--pipeline"),
    ("grad_clip", "--grad-clip"),
    ("head_size", "--head-size"),
    ("host", "--host"),
    ("init", "--init"),
    ("is_tied", "--output-head"),
    ("layer_norm_epsilon", "--norm-eps"),
    ("learning_rate", "--lr"),
    ("local.outer_momentum", "--outer-momentum"),
    ("local.outer_rate", "--outer-rate"),
    ("local.sync_every", "--sync-every"),
    ("log_every", "--log-every"),
    ("lora.alpha", "--lora-alpha"),
    ("lora.rank", "--lora-rank"),
    ("lora.targets", "--lora-targets"),
    ("max_iters", "--max-iters"),
    ("max_memory", "--max-memory"),
    ("max_tokens", "--max-tokens"),
    ("min_learning_rate", "--min-lr"),
    ("min_p", "--min-p"),
    ("n_embd", "--embd"),
    ("n_head", "--heads"),
    ("n_inner", "--ffn"),
    ("n_kv_head", "--kv-heads"),
    ("n_layer", "--layers"),
    ("n_positions", "--context"),
    ("out", "--out"),
    ("port", "--port"),
    ("precision", "--precision"),
    ("prompt", "--prompt"),
    ("prompt_ids", "--prompt-ids"),
    ("prompt_tokens", "--prompt-tokens"),
    ("rank_batch", "--rank-batch"),
    ("recompute", "--recompute"),
    ("repetition_penalty", "--repetition-penalty"),
    ("resume", "--resume"),
    ("rotary.theta", "--rope-theta"),
    ("save_every", "--save-every"),
    ("seq_len", "--seq-len"),
    ("size", "--size"),
    ("slots", "--slots"),
    ("stop", "--stop"),
    ("stride", "--stride"),
    ("temperature", "--temperature"),
    ("tokenizer", "--tokenizer"),
    ("top_k", "--top-k"),
    ("top_p", "--top-p"),
    ("train::resume", "wgpt train --resume"),
    ("train_only", "--train-only"),
    ("val_data", "--val-data"),
    ("val_tokens", "--val-tokens"),
    ("vocab_size", "--vocab"),
    ("warmup", "--warmup"),
    ("weight_decay", "--weight-decay"),
    ("window", "--window"),
];

/// Returns the name on the command line of the setting that the library calls `field`.
pub fn name(field: &str) -> String {
    let flag = NAMES.iter().find(|(name, _)| *name == field);
    flag.map_or(field, |(_, flag)| flag).to_owned()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    use super::*;

    /// Fields without a flag of their own: no option sets them.
    const WITHOUT: &[&str] = &["rank_shares"];

    /// Collects the options of a command and of its subcommands.
    fn options(command: &clap::Command, found: &mut BTreeSet<String>) {
        found.extend(command.get_arguments().filter_map(|arg| arg.get_long()).map(str::to_owned));
        command.get_subcommands().for_each(|command| options(command, found));
    }

    /// Collects the fields that the library's sources name by `field("...")`.
    fn fields(folder: &Path, found: &mut BTreeSet<String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.ends_with("src/cli") {
                fields(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                let imports =
                    |line: &str| line.contains("use crate::error::") && line.contains("field");
                if text.lines().any(imports) {
                    // Names in documentation are skipped.
                    let lines = text.lines().filter(|line| !line.trim_start().starts_with("//"));
                    let calls = lines.flat_map(|line| line.split("field(\"").skip(1));
                    found.extend(calls.map(|rest| rest.split('"').next().unwrap().to_owned()));
                }
            }
        }
    }

    #[test]
    fn every_flag_is_an_option() {
        let mut known = BTreeSet::new();
        options(&crate::cli::command(), &mut known);
        for (field, name) in NAMES {
            let flags: Vec<&str> =
                name.split(' ').filter_map(|word| word.strip_prefix("--")).collect();
            assert_eq!(flags.len(), 1, "{field}: {name}");
            assert!(known.contains(flags[0]), "{field}: there is no option {name}");
        }
    }

    #[test]
    fn the_fields_are_those_that_the_library_names() {
        let mut named = BTreeSet::new();
        fields(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut named);
        let known = NAMES.iter().map(|(field, _)| *field).chain(WITHOUT.iter().copied());
        assert_eq!(named, known.map(str::to_owned).collect());
    }

    #[test]
    fn a_field_is_shown_by_its_flag() {
        assert_eq!(name("learning_rate"), "--lr");
        assert_eq!(name("rank_shares"), "rank_shares");
    }
}
