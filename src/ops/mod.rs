//! The operations of models, one file each: the formulas, the kernels, the graph node, the CPU twins.
//!
//! To add one: add `ops/NAME.rs`, its `shaders/NAME_*.wgsl`, and its kernels in `every_kernel`.
//! The tests then report by name the parts that are missing.

pub mod attention;
pub mod cast;
pub mod cross_entropy;
pub mod dropout;
pub mod embedding;
pub mod gelu;
pub mod global_norm;
pub mod gradient_sum;
pub mod head;
pub mod layernorm;
pub mod linear;
pub mod lora;
pub mod matmul;
mod matrix_units;
mod norm;
pub mod optimizer;
pub mod random;
pub mod recompute;
pub mod residual;
pub mod residual_layernorm;
pub mod residual_rmsnorm;
pub mod rmsnorm;
pub mod rotary;
pub mod sample;
pub mod softmax;
pub mod swiglu;
mod variants;

use crate::kernel::Kernel;

/// Passes the paths of all kernels to a macro; this is the only list of them.
macro_rules! every_kernel {
    ($of:ident) => {
        $of! {
            attention::FORWARD
            attention::BACKWARD_DELTA
            attention::BACKWARD
            attention::EXTEND_COPY
            attention::EXTEND_STORE
            attention::EXTEND_FORWARD
            cast::FORWARD
            cross_entropy::FORWARD
            cross_entropy::BACKWARD
            cross_entropy::SUM
            dropout::FORWARD
            dropout::BACKWARD
            embedding::FORWARD
            embedding::FORWARD_TOKENS
            embedding::EXTEND_FORWARD
            embedding::EXTEND_FORWARD_TOKENS
            embedding::BACKWARD_TOKENS
            embedding::BACKWARD_POSITIONS
            gelu::FORWARD
            gelu::BACKWARD
            gelu::EXACT_FORWARD
            gelu::EXACT_BACKWARD
            global_norm::PARTIAL
            global_norm::FINISH
            gradient_sum::ADD
            head::FORWARD
            layernorm::FORWARD
            layernorm::BACKWARD_INPUT
            layernorm::BACKWARD_PARAMS
            linear::FORWARD
            linear::FORWARD_OUT_IN
            linear::GELU_FORWARD
            linear::BACKWARD_INPUT
            linear::BACKWARD_PARAMS
            linear::BACKWARD_BIAS
            lora::SCALE
            matmul::NN
            matmul::NT
            matmul::TN
            optimizer::ADAM
            optimizer::SGD
            residual::FORWARD
            residual::BACKWARD
            residual_layernorm::FORWARD
            residual_rmsnorm::FORWARD
            rmsnorm::FORWARD
            rmsnorm::BACKWARD_INPUT
            rmsnorm::BACKWARD_PARAMS
            rotary::FORWARD
            sample::FILTER
            sample::DRAW
            softmax::FORWARD
            softmax::BACKWARD
            swiglu::FORWARD
            swiglu::BACKWARD
        }
    };
}
pub(crate) use every_kernel;

macro_rules! references {
    ($($op:ident :: $kernel:ident)*) => { &[$(&$op::$kernel),*] };
}

/// Every kernel, for the tests, the benchmarks and the profiler.
pub const ALL: &[&Kernel] = every_kernel!(references);
