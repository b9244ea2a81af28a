//! An empty journal's first block.

use crate::BLOCK;
use crate::encode::put32_be;

const MAGIC: u32 = 0xC03B_3998;
const SUPER_BLOCK_V2: u32 = 4;

pub(crate) fn super_block(blocks: u32) -> Vec<u8> {
    let mut block = vec![0; BLOCK];
    put32_be(&mut block, 0x00, MAGIC);
    put32_be(&mut block, 0x04, SUPER_BLOCK_V2);
    put32_be(&mut block, 0x0C, BLOCK as u32);
    put32_be(&mut block, 0x10, blocks);
    // The first block of the log, and the first transaction that will be in it.
    put32_be(&mut block, 0x14, 1);
    put32_be(&mut block, 0x18, 1);
    // How many file systems use it.
    put32_be(&mut block, 0x40, 1);
    block
}
