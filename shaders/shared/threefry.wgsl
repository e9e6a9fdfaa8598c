// Threefry-2x32 with 20 rounds: the first random word of a counter under a key.

fn threefry_round(x: vec2<u32>, rotation: u32) -> vec2<u32> {
    let sum = x.x + x.y;
    return vec2(sum, ((x.y << rotation) | (x.y >> (32u - rotation))) ^ sum);
}

fn threefry_even(x: vec2<u32>) -> vec2<u32> {
    return threefry_round(threefry_round(threefry_round(threefry_round(x, 13u), 15u), 26u), 6u);
}

fn threefry_odd(x: vec2<u32>) -> vec2<u32> {
    return threefry_round(threefry_round(threefry_round(threefry_round(x, 17u), 29u), 16u), 24u);
}

fn threefry(key: vec2<u32>, counter: vec2<u32>) -> u32 {
    let k0 = key.x;
    let k1 = key.y;
    let k2 = 0x1bd11bdau ^ k0 ^ k1;
    var x = counter + vec2(k0, k1);
    x = threefry_even(x) + vec2(k1, k2 + 1u);
    x = threefry_odd(x) + vec2(k2, k0 + 2u);
    x = threefry_even(x) + vec2(k0, k1 + 3u);
    x = threefry_odd(x) + vec2(k1, k2 + 4u);
    x = threefry_even(x) + vec2(k2, k0 + 5u);
    return x.x;
}
