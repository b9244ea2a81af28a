//! The compressions that kernels and modules come in, told by their magic.

use std::io::{self, Read};

/// The most that comes out, whatever the file promises.
const LIMIT: u64 = 512 << 20;

/// Unpacks `data`.
pub(crate) fn decompress(data: &[u8]) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    let unpacked = match data {
        [0x1f, 0x8b, ..] => read_limited(flate2::read::GzDecoder::new(data), &mut out),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => {
            read_limited(liblzma::read::XzDecoder::new(data), &mut out)
        }
        [0x28, 0xb5, 0x2f, 0xfd, ..] => match ruzstd::decoding::StreamingDecoder::new(data) {
            Ok(decoder) => read_limited(decoder, &mut out),
            Err(error) => return Err(error.to_string()),
        },
        [0x02, 0x21, 0x4c, 0x18, rest @ ..] => return lz4_legacy(rest),
        [b'B', b'Z', b'h', ..] => return Err("bzip2 is not supported".into()),
        [0x89, b'L', b'Z', b'O', ..] => return Err("LZO is not supported".into()),
        [0x5d, 0, 0, ..] => return Err("LZMA is not supported".into()),
        _ => return Err("its compression is unknown".into()),
    };
    match unpacked {
        Ok(()) => Ok(out),
        // Payloads end with the unpacked size, which is no part of the stream.
        Err(_) if out.starts_with(b"\x7fELF") && out.len() as u64 == trailing_size(data) => Ok(out),
        Err(error) => Err(error.to_string()),
    }
}

fn trailing_size(data: &[u8]) -> u64 {
    data.last_chunk()
        .map_or(0, |bytes| u64::from(u32::from_le_bytes(*bytes)))
}

fn read_limited(reader: impl Read, out: &mut Vec<u8>) -> io::Result<()> {
    let count = reader.take(LIMIT + 1).read_to_end(out)?;
    if count as u64 > LIMIT {
        return Err(io::Error::other("it unpacks to more than 512 MiB"));
    }
    Ok(())
}

/// LZ4's legacy frame (`lz4_Frame_format.md`, "Legacy frame"): blocks of 8 MiB, each with its packed
/// size. The kernel appends the unpacked size of the whole, which looks like one more block's.
fn lz4_legacy(mut rest: &[u8]) -> Result<Vec<u8>, String> {
    const BLOCK: usize = 8 << 20;
    let mut out = Vec::new();
    let mut block = vec![0; BLOCK];
    while let Some((size, after)) = rest.split_first_chunk::<4>() {
        let size = u32::from_le_bytes(*size) as usize;
        if after.is_empty() {
            break;
        }
        let packed = after.get(..size).ok_or("an LZ4 block is truncated")?;
        let count = lz4_flex::block::decompress_into(packed, &mut block)
            .map_err(|error| error.to_string())?;
        out.extend_from_slice(&block[..count]);
        if out.len() as u64 > LIMIT {
            return Err("it unpacks to more than 512 MiB".into());
        }
        rest = &after[size..];
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;

    fn sample() -> Vec<u8> {
        (0..300_000_u32)
            .flat_map(|n| (n / 7).to_le_bytes())
            .collect()
    }

    fn lz4(data: &[u8]) -> Vec<u8> {
        let mut out = vec![0x02, 0x21, 0x4c, 0x18];
        for chunk in data.chunks(8 << 20) {
            let packed = lz4_flex::block::compress(chunk);
            out.extend(u32::try_from(packed.len()).unwrap().to_le_bytes());
            out.extend(packed);
        }
        out.extend(u32::try_from(data.len()).unwrap().to_le_bytes());
        out
    }

    #[test]
    fn each_compression_gives_back_what_went_in() {
        let data = sample();
        let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
        xz.write_all(&data).unwrap();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&data).unwrap();
        let level = ruzstd::encoding::CompressionLevel::Fastest;
        let zstd = ruzstd::encoding::compress_to_vec(data.as_slice(), level);
        for packed in [
            xz.finish().unwrap(),
            gzip.finish().unwrap(),
            zstd,
            lz4(&data),
        ] {
            assert_eq!(decompress(&packed).unwrap(), data);
        }
    }

    #[test]
    fn truncated_and_unknown_streams_are_errors() {
        let packed = lz4(&sample());
        assert!(decompress(&packed[..packed.len() / 2]).is_err());
        for bad in [&b"BZh9"[..], b"", b"text"] {
            assert!(decompress(bad).is_err());
        }
    }

    proptest! {
        #[test]
        fn garbage_never_panics(kind in 0_usize..4, noise in prop::collection::vec(any::<u8>(), 0..300)) {
            let magics: [&[u8]; 4] =
                [&[0x1f, 0x8b, 8], &[0xfd, b'7', b'z', b'X', b'Z', 0], &[0x28, 0xb5, 0x2f, 0xfd], &[2, 0x21, 0x4c, 0x18]];
            let mut data = magics[kind].to_vec();
            data.extend(noise);
            let _ = decompress(&data);
        }
    }
}
