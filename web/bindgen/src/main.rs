//! Writes what a page loads of a WebAssembly file: `wgpt-bindgen IN.wasm OUT NAME` writes OUT/NAME.js and OUT/NAME_bg.wasm, as
//! `wasm-bindgen --target web` does.

use std::process::ExitCode;

use wasm_bindgen_cli_support::Bindgen;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [wasm, out, name] = args.as_slice() else {
        eprintln!("usage: wgpt-bindgen IN.wasm OUT NAME");
        return ExitCode::from(2);
    };
    let mut bindgen = Bindgen::new();
    bindgen.input_path(wasm).out_name(name).typescript(false).remove_name_section(true);
    // The page finds the WebAssembly beside the module.
    bindgen.omit_default_module_path(false);
    match bindgen.web(true).and_then(|bindgen| bindgen.generate(out)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:?}");
            ExitCode::FAILURE
        }
    }
}
