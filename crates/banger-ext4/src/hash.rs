//! The hash that directory indexes are sorted by: half of MD4, with names taken as signed characters.

const START: [u32; 4] = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476];
/// No entry may have this hash: it ends the directory.
const END: u32 = 0xffff_fffe;

/// The hash of a name. `seed` of zeros means the algorithm's own start.
pub(crate) fn half_md4(name: &[u8], seed: &[u32; 4]) -> u32 {
    let mut state = if *seed == [0; 4] { START } else { *seed };
    let mut rest = name;
    while !rest.is_empty() {
        round(&mut state, &words(rest));
        rest = &rest[rest.len().min(32)..];
    }
    let hash = state[1] & !1;
    if hash == END { END - 2 } else { hash }
}

/// The next 32 bytes as words; what is missing is filled up with the length.
fn words(rest: &[u8]) -> [u32; 8] {
    let length = rest.len() as u32;
    let mut pad = length | length << 8;
    pad |= pad << 16;
    let mut words = [pad; 8];
    for (word, bytes) in words.iter_mut().zip(rest.chunks(4)) {
        for byte in bytes {
            let signed = i32::from(*byte as i8) as u32;
            *word = signed.wrapping_add(*word << 8);
        }
    }
    words
}

fn round(state: &mut [u32; 4], input: &[u32; 8]) {
    type Mix = fn(u32, u32, u32) -> u32;
    let rounds: [(Mix, u32, [usize; 8], [u32; 4]); 3] = [
        (
            |x, y, z| z ^ (x & (y ^ z)),
            0,
            [0, 1, 2, 3, 4, 5, 6, 7],
            [3, 7, 11, 19],
        ),
        (
            |x, y, z| (x & y).wrapping_add((x ^ y) & z),
            0x5a82_7999,
            [1, 3, 5, 7, 0, 2, 4, 6],
            [3, 5, 9, 13],
        ),
        (
            |x, y, z| x ^ y ^ z,
            0x6ed9_eba1,
            [3, 7, 2, 6, 1, 5, 0, 4],
            [3, 9, 11, 15],
        ),
    ];
    let mut s = *state;
    for (mix, constant, order, shifts) in rounds {
        for (step, index) in order.into_iter().enumerate() {
            // a, d, c, b take turns.
            let a = (4 - step % 4) % 4;
            let (b, c, d) = (s[(a + 1) % 4], s[(a + 2) % 4], s[(a + 3) % 4]);
            s[a] = s[a]
                .wrapping_add(mix(b, c, d))
                .wrapping_add(input[index])
                .wrapping_add(constant)
                .rotate_left(shifts[step % 4]);
        }
    }
    for (to, from) in state.iter_mut().zip(s) {
        *to = to.wrapping_add(from);
    }
}
