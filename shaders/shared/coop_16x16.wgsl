// Cooperative matrices of 16 x 16: operands in half precision, sums in single.

const M = 16u;
const N = 16u;
const K = 16u;
alias MatrixA = coop_mat16x16<f16, A>;    // M x K
alias MatrixB = coop_mat16x16<f16, B>;    // K x N
alias MatrixC = coop_mat16x16<f32, C>;    // M x N
