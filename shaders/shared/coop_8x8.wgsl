// Cooperative matrices of 8 x 8: operands in half precision, sums in single.

const M = 8u;
const N = 8u;
const K = 8u;
alias MatrixA = coop_mat8x8<f16, A>;    // M x K
alias MatrixB = coop_mat8x8<f16, B>;    // K x N
alias MatrixC = coop_mat8x8<f32, C>;    // M x N
