//! The `wgpt` program: it parses the arguments, runs the command, prints the error and its hint, and sets the exit
//! code.

mod cli;

fn main() -> std::process::ExitCode {
    silence_device_select();
    cli::main()
}

/// Switches off Mesa's layer that sorts GPUs: wgpt chooses a GPU by itself, and without a desktop the layer prints
/// errors about XDG_RUNTIME_DIR. The layer stays on if the user has set one of its variables.
fn silence_device_select() {
    let variables = ["NODEVICE_SELECT", "MESA_VK_DEVICE_SELECT", "DRI_PRIME"];
    if variables.iter().any(|name| std::env::var_os(name).is_some()) {
        return;
    }
    // SAFETY: the process does this first, so there is no other thread that reads the environment.
    #[allow(unsafe_code, reason = "the layer listens to the environment alone")]
    unsafe {
        std::env::set_var("NODEVICE_SELECT", "1");
    }
}
