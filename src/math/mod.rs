//! Mathematics that the CPU kernels share: matrix products, vector functions, threads.
//!
//! Everything runs on rayon's current pool, in pieces whose sizes depend on the problem alone: the number of threads
//! does not change any bit of a result.

pub mod bf16;
pub mod gemm;
pub mod gemv;
pub mod operand;
pub mod simd;
pub mod stored;
