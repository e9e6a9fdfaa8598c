//! The `wgpt` program: parse, run, print the error and its hint, exit code.

mod cli;

fn main() -> std::process::ExitCode {
    silence_device_select();
    cli::main()
}

/// Switches off Mesa's layer that puts GPUs into an order: wgpt chooses by itself, and where there is no desktop the layer
/// prints errors about XDG_RUNTIME_DIR. It stays where the user has set one of the layer's variables.
fn silence_device_select() {
    let variables = ["NODEVICE_SELECT", "MESA_VK_DEVICE_SELECT", "DRI_PRIME"];
    if variables.iter().any(|name| std::env::var_os(name).is_some()) {
        return;
    }
    // SAFETY: this is the first thing that the process does, so there is no other thread that reads the environment.
    #[allow(unsafe_code, reason = "the layer listens to the environment alone")]
    unsafe {
        std::env::set_var("NODEVICE_SELECT", "1");
    }
}
