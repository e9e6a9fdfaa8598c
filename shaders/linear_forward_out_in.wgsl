// uses: linear_x, linear_out_in, linear_out, product_no_sums, product
// out = x · transpose(weight) + bias. Operands: shared/linear_*.wgsl. Engines: shared/product_*.wgsl.

@group(0) @binding(1) var<storage, read> x: array<vec4<x_elem>>;              // (B, T, C)
@group(0) @binding(2) var<storage, read> weight: array<stored_weight>;        // (OC, C)
@group(0) @binding(3) var<storage, read> bias: array<vec4<f32>>;              // (OC)
@group(0) @binding(4) var<storage, read_write> out: array<vec4<out_elem>>;    // (B, T, OC)
