//! Macros and conditions that the lists of WGSL variants of several kernels share.

use crate::kernel::{Format, Needs, grid};

/// The portable [`crate::kernel::Variant`] of the kernel whose file is `$file`, and others, whose files end in
/// `_NAME`, with their needs, the condition under which they fit, and their grid. `NAME + MORE` is the name of a variant
/// whose file ends in `_NAME`, too.
macro_rules! portable {
    (
        $file:literal, [$($shared:ident),*], $grid:expr
        $(
            , $name:literal $(+ $more:literal)?: [$($its:ident),*],
            $needs:expr, $fits:expr, $its_grid:expr
        )*
    ) => {
        &[
            crate::kernel::Variant {
                name: "",
                wgsl: include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/shaders/", $file, ".wgsl")),
                shared: &[$(crate::kernel::shared::$shared),*],
                needs: crate::kernel::Needs::NOTHING,
                fits: crate::kernel::always,
                tolerance: None,
                grid: $grid,
            },
            $(crate::kernel::Variant {
                name: concat!($name $(, $more)?),
                wgsl: include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/shaders/", $file, "_", $name, ".wgsl")),
                shared: &[$(crate::kernel::shared::$its),*],
                needs: $needs,
                fits: $fits,
                tolerance: None,
                grid: $its_grid,
            },)*
        ]
    };
}
pub(crate) use portable;

/// The variants of a matrix product whose file is `$file`, one per engine. `$m` and `$n` are the numbers of rows
/// and columns of the result; the operands are the first two arguments.
macro_rules! products {
    ($file:literal, [$($shared:ident),*], |$d:ident| [$m:expr, $n:expr]) => {{
        use crate::kernel::{Dims, Needs, Variant, always, grid, shared};
        use crate::ops::variants::{coop_needs, few_tiles, halves_and_size};
        const fn size($d: &Dims) -> [u32; 2] {
            [$m, $n]
        }
        const PORTABLE: Variant = Variant {
            name: "",
            wgsl: include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/shaders/", $file, ".wgsl")),
            shared: &[
                $(shared::$shared,)*
                shared::PRODUCT,
                shared::PRODUCT_TILES,
                "const TILE = 64u;",
            ],
            needs: Needs::NOTHING,
            fits: always,
            tolerance: None,
            grid: |d, _| grid::tiles(size(d), [64, 64]),
        };
        &[
            PORTABLE,
            Variant {
                name: "large",
                shared: &[
                    $(shared::$shared,)*
                    shared::PRODUCT,
                    shared::PRODUCT_TILES,
                    "const TILE = 128u;",
                ],
                // For smaller products it would leave most of a device idle.
                fits: |d, _| size(d).iter().all(|edge| *edge >= 256),
                grid: |d, _| grid::tiles(size(d), [128, 128]),
                ..PORTABLE
            },
            Variant {
                name: "sliced",
                shared: &[$(shared::$shared,)* shared::PRODUCT, shared::PRODUCT_SLICED],
                fits: |d, _| few_tiles(size(d), 64),
                grid: |d, _| grid::tiles(size(d), [32, 32]),
                ..PORTABLE
            },
            Variant {
                name: "broadcast",
                shared: &[$(shared::$shared,)* shared::PRODUCT, shared::PRODUCT_BROADCAST],
                needs: Needs::SUBGROUPS_OF_8,
                grid: |d, _| grid::tiles(size(d), [16, 128]),
                ..PORTABLE
            },
            Variant {
                name: "rows",
                shared: &[$(shared::$shared,)* shared::PRODUCT, shared::PRODUCT_ROWS],
                fits: |d, _| size(d)[0] <= 8,
                grid: |d, _| grid::tiles(size(d), [8, 32]),
                ..PORTABLE
            },
            // Matrix units like Apple's; those of a CPU emulator, with both ways to store tiles; those like NVIDIA's.
            products!(@coop [$($shared),*], "coop_8x8", COOP_8X8, COOP_NUMBERS, 8, 32, 1),
            products!(@coop [$($shared),*], "coop_8x8_sliced", COOP_8X8, COOP_NUMBERS, 8, 32, 2),
            products!(@coop [$($shared),*], "coop_8x8_narrow", COOP_8X8, COOP_VECTORS, 8, 8, 1),
            products!(@coop [$($shared),*], "coop_8x8_narrow_sliced", COOP_8X8, COOP_NUMBERS, 8, 8, 2),
            products!(@coop [$($shared),*], "coop_16x16", COOP_16X16, COOP_VECTORS, 16, 32, 1),
            products!(@coop [$($shared),*], "coop_16x16_sliced", COOP_16X16, COOP_VECTORS, 16, 32, 2),
        ]
    }};
    (
        @coop [$($shared:ident),*],
        $name:literal, $matrices:ident, $tiles:ident, $edge:literal, $subgroup:literal, $slices:literal
    ) => {
        Variant {
            name: $name,
            shared: &[
                $(shared::$shared,)*
                shared::PRODUCT,
                shared::PRODUCT_COOP,
                shared::$matrices,
                shared::$tiles,
                concat!("const SUBGROUP = ", $subgroup, "u; const SLICES = ", $slices, "u;"),
            ],
            needs: coop_needs($edge, $subgroup),
            fits: |d, formats| {
                halves_and_size(formats, size(d)) && ($slices == 1 || few_tiles(size(d), 8 * $edge))
            },
            grid: |d, _| grid::tiles(size(d), [8 * $edge / $slices; 2]),
            ..PORTABLE
        }
    };
}
pub(crate) use products;

/// Returns the needs of products on matrix units with tiles of this edge and subgroups of this size.
pub(crate) const fn coop_needs(edge: u32, subgroup: u32) -> Needs {
    let workgroup_bytes = if edge == 16 { 29 << 10 } else { 16 << 10 };
    Needs { f16: true, subgroup, matrix_tiles: edge, workgroup_bytes, ..Needs::NOTHING }
}

/// Whether matrix units are worth using: the operands are in half precision and fill some tiles.
pub(crate) fn halves_and_size(formats: &[Format], [m, n]: [u32; 2]) -> bool {
    formats[..2] == [Format::F16; 2] && m > 8 && n >= 8
}

/// Whether tiles of this edge would leave most of a large device idle.
pub(crate) fn few_tiles(size: [u32; 2], edge: u32) -> bool {
    let [x, y, _] = grid::tiles(size, [edge; 2]);
    x * y <= 64
}

/// The variants of a kernel that works on rows: the portable one, with a workgroup per row, and those with a subgroup per
/// row of `$rows` rows, `subgroup_8` for subgroups of 8 alone. All use the texts `$shared`.
macro_rules! rows {
    ($file:literal, [$($shared:ident),*], $rows:expr, $fits:expr) => {
        crate::ops::variants::portable!(
            $file,
            [REDUCE $(, $shared)*],
            |d, _| crate::kernel::grid::fold($rows(d)),
            "subgroup": [SUBGROUP_ROWS, INVOCATIONS_256 $(, $shared)*],
            crate::kernel::Needs::SUBGROUPS,
            $fits,
            |d, _| crate::kernel::grid::eight_rows($rows(d)),
            "subgroup" + "_8": [SUBGROUP_ROWS, INVOCATIONS_64 $(, $shared)*],
            crate::kernel::Needs::SUBGROUPS_OF_8,
            $fits,
            |d, _| crate::kernel::grid::eight_rows($rows(d))
        )
    };
}
pub(crate) use rows;
