//! `wgpt trial`: the child that other commands start to compile variants that may crash a driver.

use wgpt::backend::Device;
use wgpt::{Error, Result, trial};

use super::options::open;
use super::outcome::Outcome;

/// Compile the variants of kernels that standard input names; other commands start this
#[derive(clap::Args)]
pub struct Args {
    /// The device
    #[arg(value_name = "DEVICE")]
    device: wgpt::backend::gpu::DeviceChoice,
}

/// Compiles the variants.
///
/// # Errors
///
/// If the device is no GPU, or a name is unknown.
pub fn run(args: &Args) -> Result<Outcome> {
    let Device::Gpu(device) = open(args.device)? else {
        return Err(Error::usage("a trial compiles for a GPU"));
    };
    trial::compile(&device, std::io::stdin(), std::io::stdout())?;
    Ok(Outcome::Good)
}
