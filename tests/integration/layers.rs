//! Is the house still in layers? Read from the sources: what each file of `src` names of the others.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use syn::visit::{self, Visit};

/// From the ground up: a module knows those of the layers below, and those of its own as long as no circle comes of it.
/// A file belongs to the longest of these that its path begins with.
const LAYERS: &[&[&str]] = &[
    &["error", "math", "kernel", "clock", "wait", "disk", "tree", "pipeline"],
    &[
        "plan",
        "timeline",
        "files",
        "cache",
        "repository",
        "download",
        "tokenizer",
        "config::model",
        "params",
        "arch",
    ],
    &["finetune", "config", "chat"],
    &["graph"],
    &["ops", "checkpoint", "backend"],
    &["model", "hub", "data"],
    &["profile", "fit", "engine", "trial"],
    &["check", "runner"],
    &["generate", "sampler", "dist"],
    &["tune", "gpt", "staged", "scored"],
    &["train", "eval"],
    &["export", "serve"],
    &["cli", "main"],
];

/// The most files that may know each other in a circle.
const LARGEST_CIRCLE: usize = 6;

/// Crates with the only modules that may name them.
const OUTSIDE: &[(&str, &[&str])] = &[
    ("wgpu", &["backend::gpu", "wait"]),
    ("pollster", &["wait"]),
    ("clap", &["cli", "main", "config::model"]),
    ("indicatif", &["cli"]),
    ("comfy_table", &["cli"]),
    ("ctrlc", &["cli"]),
    ("ureq", &["download", "hub"]),
    ("gemm", &["math"]),
    ("mpi", &["dist::mpi"]),
    ("pulp", &["math"]),
    ("axum", &["serve"]),
    ("hyper", &["serve"]),
    ("prometheus_client", &["serve"]),
    ("tokio", &["serve", "wait"]),
    ("memmap2", &["disk", "backend::zeroed"]),
    ("js_sys", &["disk", "wait"]),
    ("wasm_bindgen", &["disk", "wait"]),
    ("web_sys", &["disk"]),
];

/// The modules that may name the system's files, beside the command line: those that a browser has not.
const FILES: &[&str] = &["disk::system", "download", "hub", "hub::snapshot", "data::download"];

/// What only one module may name, beside the command line: the time, and whatever blocks a thread.
const ONE_PLACE: &[(&str, &str)] = &[
    ("Instant", "clock"),
    ("sleep", "wait"),
    ("park", "wait"),
    ("block_on", "wait"),
    ("PollType", "wait"),
    ("mpsc", "wait"),
    ("Condvar", "wait"),
    ("Barrier", "wait"),
];

type Uses = BTreeMap<String, BTreeSet<String>>;

/// The name of each file of `src` as a module, and the file.
fn modules() -> Vec<(String, PathBuf)> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = vec![];
    walk(&root, &mut files);
    files.sort();
    let name = |path: &PathBuf| {
        let inner = path.strip_prefix(&root).unwrap().with_extension("");
        let parts: Vec<&str> = inner.iter().map(|part| part.to_str().unwrap()).collect();
        let parts = parts.strip_suffix(&["mod"]).unwrap_or(&parts);
        parts.join("::")
    };
    files.iter().map(|path| (name(path), path.clone())).collect()
}

/// Collects the paths that a file names, without its tests.
struct Paths {
    /// The file's own module.
    module: Vec<String>,
    found: BTreeSet<Vec<String>>,
    /// Paths that begin with a child of this module, or with another crate.
    bare: BTreeSet<Vec<String>>,
}

impl Paths {
    fn add(&mut self, path: Vec<String>) {
        let own = self.module.len();
        let supers = path.iter().take_while(|part| *part == "super").count();
        let full = match path[0].as_str() {
            "crate" | "wgpt" => path[1..].to_vec(),
            "self" => [&self.module, &path[1..]].concat(),
            "super" => [&self.module[..own.saturating_sub(supers)], &path[supers..]].concat(),
            _ => {
                self.bare.insert(path);
                return;
            }
        };
        self.found.insert(full);
    }

    fn add_tree(&mut self, before: &[String], tree: &syn::UseTree) {
        let with = |name: &syn::Ident| [before, &[name.to_string()]].concat();
        match tree {
            syn::UseTree::Path(path) => self.add_tree(&with(&path.ident), &path.tree),
            syn::UseTree::Name(name) => self.add(with(&name.ident)),
            syn::UseTree::Rename(name) => self.add(with(&name.ident)),
            syn::UseTree::Glob(_) => self.add(before.to_vec()),
            syn::UseTree::Group(group) => group.items.iter().for_each(|t| self.add_tree(before, t)),
        }
    }
}

impl<'a> Visit<'a> for Paths {
    fn visit_item_mod(&mut self, item: &'a syn::ItemMod) {
        if item.ident != "tests" {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'a syn::ItemUse) {
        self.add_tree(&[], &item.tree);
    }

    fn visit_path(&mut self, path: &'a syn::Path) {
        if path.segments.len() > 1 {
            self.add(path.segments.iter().map(|segment| segment.ident.to_string()).collect());
        }
        visit::visit_path(self, path);
    }
}

/// What a file names.
fn paths(module: &str, text: &str) -> Paths {
    let file = syn::parse_file(text).unwrap_or_else(|error| panic!("{module}: {error}"));
    // The program's root is its own.
    let parts = module.split("::").filter(|part| *part != "main").map(str::to_owned).collect();
    let mut paths = Paths { module: parts, found: BTreeSet::new(), bare: BTreeSet::new() };
    paths.visit_file(&file);
    paths
}

/// Which modules each module names.
fn uses(modules: &[(String, String)]) -> Uses {
    let names: BTreeSet<&str> = modules.iter().map(|(name, _)| name.as_str()).collect();
    let module_of = |path: &[String], shortest: usize| {
        let prefixes = (shortest..=path.len()).rev().map(|n| path[..n].join("::"));
        prefixes.into_iter().find(|prefix| names.contains(prefix.as_str()))
    };
    let of_one = |(module, text): &(String, String)| {
        let paths = paths(module, text);
        let own = &paths.module;
        let child = |path: &Vec<String>| module_of(&[own, path.as_slice()].concat(), own.len() + 1);
        let named = paths.found.iter().filter_map(|path| module_of(path, 1));
        let named: BTreeSet<_> = named.chain(paths.bare.iter().filter_map(child)).collect();
        // That a module has children is no use of them.
        let named = named.into_iter().filter(|other| other != module);
        (module.clone(), named.collect())
    };
    modules.iter().map(of_one).collect()
}

fn sources() -> Vec<(String, String)> {
    let read = |(name, path): (String, PathBuf)| (name, fs::read_to_string(path).unwrap());
    // What the library's front page shows again is no use of it.
    modules().into_iter().filter(|(name, _)| name != "lib").map(read).collect()
}

/// The layer of a module, by the longest name that it begins with.
fn layer(module: &str) -> Option<usize> {
    let is_part = |of: &str| module == of || module.starts_with(&format!("{of}::"));
    let all = LAYERS.iter().enumerate().flat_map(|(i, names)| names.iter().map(move |n| (i, *n)));
    all.filter(|(_, name)| is_part(name)).max_by_key(|(_, name)| name.len()).map(|(i, _)| i)
}

/// Arrows that point upwards: the module and what it names.
fn upwards(uses: &Uses) -> Vec<(String, String)> {
    let pairs = uses.iter().flat_map(|(a, all)| all.iter().map(move |b| (a.clone(), b.clone())));
    // A module that gathers several layers names its own children.
    let own = |a: &str, b: &str| b.starts_with(&format!("{a}::"));
    pairs.filter(|(a, b)| layer(a) < layer(b) && !own(a, b)).collect()
}

/// The sets of modules that know each other, directly or through others (Tarjan 1972).
fn circles(uses: &Uses) -> Vec<Vec<&str>> {
    fn reachable<'a>(uses: &'a Uses, from: &'a str) -> BTreeSet<&'a str> {
        let (mut seen, mut open) = (BTreeSet::new(), vec![from]);
        while let Some(at) = open.pop() {
            for next in uses.get(at).into_iter().flatten() {
                if seen.insert(next.as_str()) {
                    open.push(next);
                }
            }
        }
        seen
    }
    let reach: BTreeMap<&str, _> = uses.keys().map(|m| (m.as_str(), reachable(uses, m))).collect();
    let circle = |m: &&str| {
        let mutual = |other: &&&str| reach[**other].contains(m);
        reach[m].iter().filter(mutual).copied().collect::<Vec<_>>()
    };
    let mut all: Vec<_> = reach.keys().map(circle).filter(|circle| circle.len() > 1).collect();
    all.sort();
    all.dedup();
    all
}

#[test]
fn every_module_has_a_layer_and_knows_only_those_below() {
    let uses = uses(&sources());
    let homeless: Vec<&String> = uses.keys().filter(|module| layer(module).is_none()).collect();
    assert!(homeless.is_empty(), "in no layer: {homeless:?}");
    assert!(uses.values().map(BTreeSet::len).sum::<usize>() > 400, "the sources were not read");
    assert_eq!(upwards(&uses), [], "these know a module of a higher layer");
}

#[test]
fn no_circle_is_large() {
    let uses = uses(&sources());
    let large: Vec<_> =
        circles(&uses).into_iter().filter(|circle| circle.len() > LARGEST_CIRCLE).collect();
    assert!(large.is_empty(), "these files know each other in a circle: {large:?}");
}

#[test]
fn crates_are_named_where_they_belong() {
    for (module, text) in sources() {
        for path in paths(&module, &text).bare {
            let Some((_, homes)) = OUTSIDE.iter().find(|(name, _)| *name == path[0]) else {
                continue;
            };
            let home = |home: &&str| module == **home || module.starts_with(&format!("{home}::"));
            assert!(homes.iter().any(home), "{module} names {}", path.join("::"));
        }
    }
}

/// The only module that may name this path, if there is one.
fn one_place(path: &[String]) -> Option<&'static str> {
    let named = |(name, _): &&(&str, &str)| path.iter().any(|part| part == name);
    ONE_PLACE.iter().find(named).map(|(_, home)| *home)
}

/// In a browser both are another's business, and there nothing may block.
#[test]
fn the_time_and_waiting_have_one_place_each() {
    let mut seen = BTreeSet::new();
    for (module, text) in sources() {
        if module == "main" || module.starts_with("cli") {
            continue;
        }
        for path in paths(&module, &text).bare {
            let Some(home) = one_place(&path) else { continue };
            assert_eq!(module, home, "{module} names {}", path.join("::"));
            seen.insert(home);
        }
    }
    assert_eq!(seen, BTreeSet::from(["clock", "wait"]), "they were not found at home");
    let path = |text: &str| text.split("::").map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(one_place(&path("std::time::Instant::now")), Some("clock"));
    assert_eq!(one_place(&path("std::thread::sleep")), Some("wait"));
    assert_eq!(one_place(&path("std::time::Duration")), None);
}

/// In a browser there are other files.
#[test]
fn files_are_reached_through_the_disk() {
    for (module, text) in sources() {
        if module == "main" || module.starts_with("cli") || FILES.contains(&&*module) {
            continue;
        }
        let of_files = |path: &Vec<String>| path.len() > 1 && path[..2] == ["std", "fs"];
        let found = paths(&module, &text).bare.into_iter().find(of_files);
        assert_eq!(found, None, "{module} names the system's files");
    }
}

/// Only what the user runs prints or ends the process.
#[test]
fn only_the_command_line_prints_or_exits() {
    struct Macros(Vec<String>);
    impl<'a> Visit<'a> for Macros {
        fn visit_item_mod(&mut self, item: &'a syn::ItemMod) {
            if item.ident != "tests" {
                visit::visit_item_mod(self, item);
            }
        }

        fn visit_macro(&mut self, mac: &'a syn::Macro) {
            self.0.extend(mac.path.segments.last().map(|segment| segment.ident.to_string()));
        }
    }
    let ours = |module: &str| module == "main" || module.starts_with("cli");
    for (module, text) in sources().into_iter().filter(|(module, _)| !ours(module)) {
        let mut macros = Macros(vec![]);
        macros.visit_file(&syn::parse_file(&text).unwrap());
        let prints = ["print", "println", "eprint", "eprintln", "dbg"];
        let wrong = macros.0.iter().find(|name| prints.contains(&name.as_str()));
        assert!(wrong.is_none(), "{module} prints: {wrong:?}");
        let exit = ["process".to_owned(), "exit".to_owned()];
        let exits = paths(&module, &text).bare.iter().any(|path| path.ends_with(&exit));
        assert!(!exits, "{module} ends the process");
    }
}

/// The texts of a file that have a flag of the command line, without its tests and its documentation.
fn flags(text: &str) -> Vec<String> {
    struct Texts(Vec<String>);
    impl<'a> Visit<'a> for Texts {
        fn visit_item_mod(&mut self, item: &'a syn::ItemMod) {
            if item.ident != "tests" {
                visit::visit_item_mod(self, item);
            }
        }

        fn visit_attribute(&mut self, _: &'a syn::Attribute) {}

        fn visit_lit_str(&mut self, text: &'a syn::LitStr) {
            self.0.push(text.value());
        }

        fn visit_macro(&mut self, mac: &'a syn::Macro) {
            // Its tokens have spaces between them, so that only a text has two dashes and a letter in a row.
            self.0.push(mac.tokens.to_string());
        }
    }
    let mut texts = Texts(vec![]);
    texts.visit_file(&syn::parse_file(text).unwrap());
    let flag = |rest: &str| rest.starts_with(|c: char| c.is_ascii_lowercase());
    texts.0.retain(|text| text.split("--").skip(1).any(flag));
    texts.0
}

/// The library names settings by its own fields ([`wgpt::error::field`]); only the command line knows flags.
#[test]
fn the_library_knows_no_flag() {
    // These write texts for a file that tells how the command line is used, and names of folders.
    let exempt = ["export::card", "repository"];
    let ours = |module: &str| module == "main" || module.starts_with("cli");
    for (module, text) in sources() {
        if !ours(&module) && !exempt.contains(&module.as_str()) {
            assert_eq!(flags(&text), Vec::<String>::new(), "{module} names a flag");
        }
    }
    // The check sees what it should.
    let text = "/// `--doc`\nfn f(n: i32) -> i32 { g(\"--lr\"); h!(\"take --seed {}\", --n); \"a -- b\"; \"c--4\" }";
    assert_eq!(flags(text).len(), 2);
    assert_eq!(flags("mod tests { const TEXT: &str = \"--lr\"; }"), Vec::<String>::new());
}

/// The checks see what they should.
#[test]
fn arrows_upwards_and_circles_are_found() {
    let module = |name: &str, text: &str| (name.to_owned(), text.to_owned());
    let made = [
        module("error", ""),
        module("graph", "use crate::{error::Error, ops::{self, gelu::Gelu}};"),
        module("ops", "pub mod gelu; pub use gelu::Gelu;"),
        module(
            "ops::gelu",
            "fn f() { super::super::graph::g(); } mod tests { use crate::train::X; }",
        ),
        module("train", "use crate::graph;"),
    ];
    let uses = uses(&made);
    let arrow = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    assert_eq!(upwards(&uses), [arrow("graph", "ops"), arrow("graph", "ops::gelu")]);
    assert_eq!(circles(&uses), [vec!["graph", "ops", "ops::gelu"]]);
}
