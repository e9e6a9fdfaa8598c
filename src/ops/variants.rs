//! Macros and conditions that the lists of WGSL variants of several kernels share.

use crate::kernel::{Format, grid};

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
        use crate::ops::matrix_units::{
            EMULATED, EMULATED_AS_4, EMULATED_AS_8, LIKE_AMD, LIKE_APPLE, LIKE_NVIDIA,
        };
        use crate::ops::variants::{few_tiles, halves_and_size};
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
                fits: |d, _| few_tiles(size(d), [64, 64]),
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
            // Workgroups of 8 or 4 subgroups: both numbers on an emulator of matrix units, and those like AMD's.
            products!(@coop [$($shared),*], "coop_8x8_as_8", EMULATED_AS_8, COOP_VECTORS, 1),
            products!(@coop [$($shared),*], "coop_8x8_as_8_sliced", EMULATED_AS_8, COOP_VECTORS, 2),
            products!(@coop [$($shared),*], "coop_8x8_as_4", EMULATED_AS_4, COOP_VECTORS, 1),
            products!(@coop [$($shared),*], "coop_8x8_as_4_sliced", EMULATED_AS_4, COOP_VECTORS, 2),
            products!(@coop [$($shared),*], "coop_16x16_either", LIKE_AMD, COOP_VECTORS, 1),
            products!(@coop [$($shared),*], "coop_16x16_either_sliced", LIKE_AMD, COOP_VECTORS, 2),
            // Matrix units like Apple's; those of the emulator, with both ways to store tiles; those like NVIDIA's.
            products!(@coop [$($shared),*], "coop_8x8", LIKE_APPLE, COOP_NUMBERS, 1),
            products!(@coop [$($shared),*], "coop_8x8_sliced", LIKE_APPLE, COOP_NUMBERS, 2),
            products!(@coop [$($shared),*], "coop_8x8_narrow", EMULATED, COOP_VECTORS, 1),
            products!(@coop [$($shared),*], "coop_8x8_narrow_sliced", EMULATED, COOP_NUMBERS, 2),
            products!(@coop [$($shared),*], "coop_16x16", LIKE_NVIDIA, COOP_VECTORS, 1),
            products!(@coop [$($shared),*], "coop_16x16_sliced", LIKE_NVIDIA, COOP_VECTORS, 2),
        ]
    }};
    (@coop [$($shared:ident),*], $name:literal, $units:ident, $elements:ident, $slices:literal) => {
        Variant {
            name: $name,
            shared: &[
                $(shared::$shared,)*
                shared::PRODUCT,
                shared::PRODUCT_COOP,
                $units.matrices.shape().wgsl,
                shared::$elements,
                $units.wgsl,
                concat!("const SLICES = ", $slices, "u;"),
            ],
            needs: $units.needs($units.product_bytes($slices)),
            fits: |d, formats| {
                halves_and_size(formats, size(d)) && ($slices == 1 || few_tiles(size(d), $units.tile(1)))
            },
            grid: |d, _| grid::tiles(size(d), $units.tile($slices)),
            ..PORTABLE
        }
    };
}
pub(crate) use products;

/// Whether matrix units are worth using: the operands are in half precision and fill some tiles.
pub(crate) fn halves_and_size(formats: &[Format], [m, n]: [u32; 2]) -> bool {
    formats[..2] == [Format::F16; 2] && m > 8 && n >= 8
}

/// Whether tiles of this size would leave most of a large device idle.
pub(crate) fn few_tiles(size: [u32; 2], tile: [u32; 2]) -> bool {
    let [x, y, _] = grid::tiles(size, tile);
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
