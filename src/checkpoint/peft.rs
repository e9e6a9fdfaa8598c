//! The settings in PEFT's adapter_config.json: the adapted layers, their ranks and scales, and the model's own
//! parameters in the adapters' file.
//!
//! The rules are those of PEFT 0.21 (`check_target_module_exists`, `get_pattern_key`, `_set_trainable`), applied to
//! PEFT's names of a GPT-2's modules: `transformer.h.0.attn.c_attn`, `transformer.wpe`, `lm_head`.

use serde_json::{Map, Value};

use super::pattern::Pattern;
use crate::arch::Schema;
use crate::error::{Error, Result};
use crate::finetune::ALL_LINEAR;
use crate::params::{ParamInfo, ParamRole, WeightLayout};
use crate::repository::hub_name;

/// Settings that change the arithmetic and are not read elsewhere, each with its supported values.
const SETTINGS: &[(&str, &[&str])] = &[
    ("peft_type", &["\"LORA\""]),
    ("bias", &["\"none\"", "\"all\"", "\"lora_only\""]),
    ("use_dora", &["false", "null"]),
    ("lora_bias", &["false", "null"]),
    ("layer_replication", &["null", "[]"]),
    ("target_parameters", &["null", "[]"]),
    ("trainable_token_indices", &["null", "[]", "{}"]),
    // The others change the base model of the adapters, or restrict where and when they apply.
    ("init_lora_weights", &["true", "false", "\"gaussian\"", "\"eva\"", "\"orthogonal\"", "null"]),
    ("alora_invocation_tokens", &["null", "[]"]),
    ("use_qalora", &["false", "null"]),
    ("use_bdlora", &["false", "null"]),
    ("kasa_config", &["null"]),
    ("monteclora_config", &["null"]),
    ("arrow_config", &["null"]),
];

/// The parsed adapter_config.json.
#[derive(Debug)]
pub(super) struct PeftConfig {
    /// The model that the adapters belong to: a path, or a name on the hub with its revision.
    pub(super) base: Option<String>,
    rank: usize,
    alpha: f64,
    /// Whether the scale is alpha divided by the square root of the rank, and not by the rank.
    root: bool,
    ranks: Vec<(Pattern, usize)>,
    alphas: Vec<(Pattern, f64)>,
    /// The adapted modules; `None`: PEFT's default for the model family.
    targets: Option<Modules>,
    excluded: Option<Modules>,
    saved: Vec<Saved>,
    layers: Option<Layers>,
    biases: bool,
}

/// An adapted layer.
#[derive(Debug)]
pub(super) struct Adapted {
    /// The name of its weight among the model's parameters.
    pub(super) weight: String,
    /// The layer's numbers of input and of output channels.
    pub(super) shape: [usize; 2],
    /// The order of the two in the weight's shape.
    pub(super) layout: WeightLayout,
    /// PEFT's name of the layer.
    pub(super) module: String,
    /// Rows of A.
    pub(super) rank: usize,
    /// The factor of B A.
    pub(super) scale: f64,
}

/// The modules that a setting selects.
#[derive(Debug)]
enum Modules {
    /// Modules with one of these names, or whose names end with a dot and one of them.
    Ends(Vec<String>),
    /// Modules whose whole name matches.
    Whole(Pattern),
    /// All linear layers.
    AllLinear,
}

/// An entry of `modules_to_save`.
#[derive(Debug)]
struct Saved {
    end: String,
    /// The pattern of the modules that PEFT leaves without adapters because of this entry.
    around: Pattern,
}

/// `layers_to_transform`, and the position of a layer's number in a name.
#[derive(Debug)]
struct Layers {
    numbers: Vec<i64>,
    patterns: Vec<Pattern>,
}

impl Modules {
    fn contains(&self, module: &str, linear: bool) -> Result<bool> {
        match self {
            Modules::Ends(ends) => Ok(ends.iter().any(|end| ends_with(module, end))),
            Modules::Whole(pattern) => pattern.matches(module),
            Modules::AllLinear => Ok(linear),
        }
    }
}

impl Layers {
    fn contain(&self, module: &str) -> Result<bool> {
        for pattern in &self.patterns {
            if let Some(index) = pattern.index(module)? {
                return Ok(self.numbers.contains(&index));
            }
        }
        Ok(false)
    }
}

/// Whether a module's name is `end`, or ends with a dot and `end`.
fn ends_with(module: &str, end: &str) -> bool {
    module
        .strip_suffix(end)
        .is_some_and(|rest| rest.is_empty() || (rest.ends_with('.') && !end.is_empty()))
}

impl PeftConfig {
    /// Reads the fields of adapter_config.json.
    ///
    /// # Errors
    ///
    /// Names the setting that is wrong or not supported.
    pub(super) fn parse(fields: &Map<String, Value>) -> Result<PeftConfig> {
        let fields = Fields(fields);
        fields.refuse_unsupported()?;
        let targets = fields.modules("target_modules")?;
        let layers = fields.layers()?;
        if layers.is_some() && targets.as_ref().is_some_and(|all| !matches!(all, Modules::Ends(_)))
        {
            return Err(Error::input(
                "layers_to_transform is set, and target_modules is one text: PEFT takes it only with a list",
            )
            .hint("put the layers' numbers into the pattern, or set layers_to_transform to null"));
        }
        let alpha = fields.get("lora_alpha");
        let finite = |x: &f64| x.is_finite();
        Ok(PeftConfig {
            base: fields.base()?,
            rank: rank(fields.get("r")).ok_or_else(|| fields.wrong("r", RANK))?,
            alpha: (alpha.as_f64().filter(finite))
                .ok_or_else(|| fields.wrong("lora_alpha", "a number"))?,
            root: fields.get("use_rslora").as_bool().unwrap_or(false),
            ranks: fields.by_pattern("rank_pattern", RANK, rank)?,
            alphas: fields.by_pattern("alpha_pattern", "a number", Value::as_f64)?,
            targets,
            excluded: fields.modules("exclude_modules")?,
            saved: fields.saved()?,
            layers,
            biases: fields.get("bias").as_str().is_some_and(|bias| bias != "none"),
        })
    }

    /// Returns the layers of a model that have adapters.
    ///
    /// # Errors
    ///
    /// If the token table is one of them, a pattern cannot be matched, or there are no such layers.
    pub(super) fn adapted(&self, model: &Schema) -> Result<Vec<Adapted>> {
        let family = model.family;
        let family_targets =
            || Modules::Ends(family.adapted.iter().map(|name| (*name).to_owned()).collect());
        let default = self.targets.is_none().then(family_targets);
        let targets = self.targets.as_ref().or(default.as_ref()).expect("one of the two");
        let (mut all, mut table) = (Vec::new(), None);
        for param in model.own() {
            let &[rows, columns] = &param.shape[..] else { continue };
            let name = family.file_name(&param.name);
            let module = name.rsplit_once('.').map_or(&*name, |(module, _)| module).to_owned();
            if !self.adapts(targets, &module, is_linear(param))? {
                continue;
            }
            if param.role == ParamRole::TokenTable {
                table = Some(module.clone());
            }
            let (rank, scale) = (self.rank_of(&module)?, self.scale_of(&module)?);
            let weight = param.name.clone();
            let (shape, layout) = match param.role {
                ParamRole::LinearWeight(WeightLayout::OutIn) => {
                    ([columns, rows], WeightLayout::OutIn)
                }
                _ => ([rows, columns], WeightLayout::InOut),
            };
            all.push(Adapted { weight, shape, layout, module, rank, scale });
        }
        let head_module = family.head.rsplit_once('.').map_or(family.head, |(module, _)| module);
        let head = self.adapts(targets, head_module, false)?.then(|| head_module.to_owned());
        if let Some(module) = table.or(head) {
            let table = family.names.tokens.name;
            let why = match model.is_tied() {
                true => "wgpt has one table for tokens and head, adapters of one of them make two",
                false => "wgpt has no adapters of the table of tokens and of the head",
            };
            return Err(Error::input(format!("target_modules names {module}: {why}")).hint(
                format!(
                    "train the adapters again without {table} and {head_module} in target_modules"
                ),
            ));
        }
        let example = || {
            format!("{}{}.0.{}", family.prefix, family.names.blocks.name, family.names.down.name)
        };
        match all.is_empty() {
            false => Ok(all),
            true => Err(Error::input(format!("no layer of a {} is adapted", family.title)).hint(
                format!(
                    "see target_modules, exclude_modules and layers_to_transform; layers are called {}",
                    example()
                ),
            )),
        }
    }

    /// Whether `targets` select a module; `linear` says whether it is a linear layer of a block.
    fn adapts(&self, targets: &Modules, module: &str, linear: bool) -> Result<bool> {
        if let Some(excluded) = &self.excluded
            && excluded.contains(module, linear)?
        {
            return Ok(false);
        }
        for saved in &self.saved {
            if saved.around.matches(module)? {
                return Ok(false);
            }
        }
        if !targets.contains(module, linear)? {
            return Ok(false);
        }
        // A module named in full is adapted in any layer.
        let in_full = |ends: &Vec<String>| ends.iter().any(|end| end == module);
        match (&self.layers, targets) {
            (Some(layers), Modules::Ends(ends)) if !in_full(ends) => layers.contain(module),
            _ => Ok(true),
        }
    }

    fn rank_of(&self, module: &str) -> Result<usize> {
        Ok(first(&self.ranks, module)?.unwrap_or(self.rank))
    }

    fn scale_of(&self, module: &str) -> Result<f64> {
        let rank = self.rank_of(module)? as f64;
        let alpha = first(&self.alphas, module)?.unwrap_or(self.alpha);
        Ok(alpha / if self.root { rank.sqrt() } else { rank })
    }

    /// Whether `modules_to_save` puts this parameter, given by PEFT's name, into the adapters' file as a whole.
    pub(super) fn saves(&self, parameter: &str) -> bool {
        let mut modules = parameter.match_indices('.').map(|(at, _)| &parameter[..at]);
        modules.any(|module| self.saved.iter().any(|saved| module.ends_with(&saved.end)))
    }

    /// Whether biases may be in the adapters' file.
    pub(super) fn has_biases(&self) -> bool {
        self.biases
    }
}

/// Whether a parameter is the matrix of a linear layer of a block.
fn is_linear(param: &ParamInfo) -> bool {
    param.role.is_linear_weight() && param.layer.is_some()
}

/// Returns the value of the first pattern that matches a module.
fn first<T: Copy>(patterns: &[(Pattern, T)], module: &str) -> Result<Option<T>> {
    for (pattern, value) in patterns {
        if pattern.matches(module)? {
            return Ok(Some(*value));
        }
    }
    Ok(None)
}

const RANK: &str = "a whole number above 0";

fn rank(value: &Value) -> Option<usize> {
    value.as_u64().filter(|rank| *rank > 0).and_then(|rank| usize::try_from(rank).ok())
}

/// The fields of adapter_config.json. A missing field is null.
struct Fields<'a>(&'a Map<String, Value>);

impl Fields<'_> {
    fn get(&self, name: &str) -> &Value {
        self.0.get(name).unwrap_or(&Value::Null)
    }

    fn wrong(&self, name: &str, wanted: &str) -> Error {
        Error::input(format!("{name} is {}, must be {wanted}", self.get(name)))
    }

    fn refuse_unsupported(&self) -> Result<()> {
        for (name, supported) in SETTINGS {
            let Some(value) = self.0.get(*name) else { continue };
            let value = value.to_string();
            if !supported.contains(&value.as_str()) {
                return Err(Error::input(format!(
                    "{name} is {value}, only {} is supported",
                    supported[0]
                ))
                .hint("merge the adapters into their model with the program that made them"));
            }
        }
        Ok(())
    }

    fn base(&self) -> Result<Option<String>> {
        let name = match self.get("base_model_name_or_path") {
            Value::Null => return Ok(None),
            value => value.as_str().filter(|name| !name.is_empty()),
        };
        let name = name.ok_or_else(|| self.wrong("base_model_name_or_path", BASE))?;
        Ok(Some(match self.get("revision").as_str() {
            Some(revision) if hub_name(name).is_some() => format!("{name}@{revision}"),
            _ => name.to_owned(),
        }))
    }

    /// Returns a list of texts; an empty one if the field is null.
    fn texts(&self, name: &str, wanted: &str) -> Result<Vec<String>> {
        let wrong = || self.wrong(name, wanted);
        let text = |value: &Value| value.as_str().map(str::to_owned).ok_or_else(wrong);
        match self.get(name) {
            Value::Null => Ok(Vec::new()),
            Value::Array(values) => values.iter().map(text).collect(),
            _ => Err(wrong()),
        }
    }

    fn modules(&self, name: &'static str) -> Result<Option<Modules>> {
        match self.get(name) {
            Value::Null => Ok(None),
            Value::String(text)
                if name == "target_modules" && text.eq_ignore_ascii_case(ALL_LINEAR) =>
            {
                Ok(Some(Modules::AllLinear))
            }
            // For PEFT, an empty text excludes nothing.
            Value::String(text) if name == "exclude_modules" && text.is_empty() => Ok(None),
            Value::String(text) => {
                let whole = format!(r"\A(?:{text})\z");
                Ok(Some(Modules::Whole(Pattern::new(name, text, &whole)?)))
            }
            _ => Ok(Some(Modules::Ends(
                self.texts(name, "a list of layers' names, or a regular expression")?,
            ))),
        }
    }

    fn saved(&self) -> Result<Vec<Saved>> {
        let name = "modules_to_save";
        let ends = self.texts(name, "a list of modules' names")?;
        let saved = |end: String| {
            let around = Pattern::new(name, &end, &format!(r"\A(^|.*\.){end}($|\..*)"))?;
            Ok(Saved { end, around })
        };
        ends.into_iter().map(saved).collect()
    }

    fn layers(&self) -> Result<Option<Layers>> {
        let name = "layers_to_transform";
        let wrong = || self.wrong(name, "a layer's number, or a list of them");
        let number = |value: &Value| value.as_i64().ok_or_else(wrong);
        let numbers: Vec<i64> = match self.get(name) {
            Value::Null => return Ok(None),
            Value::Array(values) => values.iter().map(number).collect::<Result<_>>()?,
            value => vec![number(value)?],
        };
        if numbers.is_empty() {
            return Ok(None);
        }
        let name = "layers_pattern";
        let given = match self.get(name) {
            Value::String(text) if text.is_empty() => Vec::new(),
            Value::String(text) => vec![text.clone()],
            _ => self.texts(name, "a name, or a list of names")?,
        };
        let pattern = |text: &String| {
            Pattern::new(name, text, &format!(r"\A(?:^|.*?\.){text}\.(?P<idx>\d+)\."))
        };
        let patterns = match given.is_empty() {
            true => vec![Pattern::new(name, "", r"\A.*?\.[^.]*\.(?P<idx>\d+)\.")?],
            false => given.iter().map(pattern).collect::<Result<_>>()?,
        };
        Ok(Some(Layers { numbers, patterns }))
    }

    /// Reads an object that maps patterns of module names to values, in file order.
    fn by_pattern<T>(
        &self,
        name: &'static str,
        wanted: &str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Result<Vec<(Pattern, T)>> {
        let object = match self.get(name) {
            Value::Null => return Ok(Vec::new()),
            Value::Object(object) => object,
            _ => return Err(self.wrong(name, "an object of names and numbers")),
        };
        let entry = |(text, value): (&String, &Value)| {
            let value = read(value).ok_or_else(|| {
                Error::input(format!("{name} gives {text:?} {value}, must be {wanted}"))
            })?;
            Ok((Pattern::new(name, text, &format!(r"\A(.*\.)?({text})$"))?, value))
        };
        object.iter().map(entry).collect()
    }
}

/// The expected value of `base_model_name_or_path`.
pub(super) const BASE: &str = "a model's folder or name";
