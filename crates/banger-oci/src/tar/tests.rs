use super::*;
use proptest::prelude::*;

/// A header with a right checksum.
fn header(name: &[u8], kind: u8, size: u64) -> Vec<u8> {
    let mut block = vec![0; BLOCK];
    block[..name.len()].copy_from_slice(name);
    block[100..108].copy_from_slice(b"0000644\0");
    block[108..116].copy_from_slice(b"0000001\0");
    block[116..124].copy_from_slice(b"0000002\0");
    block[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
    block[136..148].copy_from_slice(b"00000000007\0");
    block[156] = kind;
    block[257..265].copy_from_slice(b"ustar\x0000");
    sum(block)
}

fn sum(mut block: Vec<u8>) -> Vec<u8> {
    block[148..156].copy_from_slice(b"        ");
    let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

fn content(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    bytes
}

fn pax(records: &[(&str, &str)]) -> Vec<u8> {
    let mut text = String::new();
    for (key, value) in records {
        let rest = format!(" {key}={value}\n");
        let mut length = rest.len() + 1;
        while length != rest.len() + length.to_string().len() {
            length += 1;
        }
        text += &format!("{length}{rest}");
    }
    [
        header(b"pax", b'x', text.len() as u64),
        content(text.as_bytes()),
    ]
    .concat()
}

/// Every entry with its content, holes as zeros.
fn read(bytes: &[u8]) -> Result<Vec<(Entry, Vec<u8>)>, TarError> {
    let mut reader = TarReader::new(bytes);
    let mut all = Vec::new();
    while let Some(entry) = reader.next_entry()? {
        let mut data = Vec::new();
        reader.content(|piece| {
            match piece {
                Piece::Bytes(bytes) => data.extend_from_slice(bytes),
                Piece::Zeros(count) => data.resize(data.len() + count as usize, 0),
            }
            Ok::<(), TarError>(())
        })?;
        all.push((entry, data));
    }
    Ok(all)
}

#[test]
fn plain_files_and_where_their_fields_are() {
    let tar = [
        header(b"a/b", b'0', 3),
        content(b"abc"),
        header(b"d/", 0, 0),
        vec![0; 1024],
    ]
    .concat();
    let all = read(&tar).unwrap();
    assert_eq!(
        (all[0].0.name.as_slice(), all[0].1.as_slice()),
        (&b"a/b"[..], &b"abc"[..])
    );
    let attributes = &all[0].0.attributes;
    assert_eq!(
        (attributes.mode, attributes.uid, attributes.gid),
        (0o644, 1, 2)
    );
    assert_eq!(attributes.mtime.seconds, 7);
    assert_eq!(all[1].0.kind, EntryKind::Directory);
    // Without the blocks of zeros it is as good.
    assert_eq!(read(&tar[..2048 - 512]).unwrap().len(), 2);
}

#[test]
fn numbers_beyond_octal_and_beyond_sense() {
    assert_eq!(header::number(b"0000644\0").unwrap(), 0o644);
    assert_eq!(header::number(b"   644  ").unwrap(), 0o644);
    assert_eq!(header::number(b"\x80\0\0\0\0\0\x01\0").unwrap(), 256);
    assert_eq!(header::number(&[0xff; 8]).unwrap(), -1);
    assert!(
        header::number(&[
            0x80, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff
        ])
        .is_err()
    );
    assert!(header::number(b"12x").is_err());
}

#[test]
fn long_names_of_gnu_and_pax_and_what_pax_adds() {
    let long = "n".repeat(300);
    let gnu = [
        header(b"x", b'L', 301),
        content(long.as_bytes()),
        header(b"n", b'0', 0),
    ]
    .concat();
    assert_eq!(read(&gnu).unwrap()[0].0.name, long.as_bytes());
    let records = [
        ("path", long.as_str()),
        ("mtime", "-1.5"),
        ("uid", "3000000000"),
        ("SCHILY.xattr.user.a", "=\nb"),
        ("SCHILY.xattr.user.empty", ""),
        ("size", "2"),
    ];
    let tar = [pax(&records), header(b"n", b'0', 7), content(b"ab")].concat();
    let (entry, data) = read(&tar).unwrap().remove(0);
    assert_eq!(
        (entry.name.as_slice(), data.as_slice()),
        (long.as_bytes(), &b"ab"[..])
    );
    let attributes = entry.attributes;
    assert_eq!(
        (
            attributes.uid,
            attributes.mtime.seconds,
            attributes.mtime.nanoseconds
        ),
        (3_000_000_000, -2, 500_000_000)
    );
    assert_eq!(attributes.xattrs[0], (b"user.a".to_vec(), b"=\nb".to_vec()));
    assert_eq!(attributes.xattrs[1], (b"user.empty".to_vec(), vec![]));
}

#[test]
fn sparse_files_of_four_kinds() {
    let expected = [&[0; 512][..], &[b'x'; 512], &[0; 1024]].concat();
    let data = [b'x'; 512];
    let old = [
        ("GNU.sparse.size", "2048"),
        ("GNU.sparse.offset", "512"),
        ("GNU.sparse.numbytes", "512"),
    ];
    let map = [
        ("GNU.sparse.size", "2048"),
        ("GNU.sparse.map", "512,512,2048,0"),
    ];
    let new = [
        ("GNU.sparse.major", "1"),
        ("GNU.sparse.minor", "0"),
        ("GNU.sparse.name", "s"),
        ("GNU.sparse.realsize", "2048"),
    ];
    let mut gnu = header(b"s", b'S', 512);
    gnu[257..265].copy_from_slice(b"ustar  \0");
    gnu[386..410].copy_from_slice(b"00000001000\x0000000001000\0");
    gnu[483..495].copy_from_slice(b"00000004000\0");
    for tar in [
        [pax(&old), header(b"s", b'0', 512), content(&data)].concat(),
        [pax(&map), header(b"s", b'0', 512), content(&data)].concat(),
        [
            pax(&new),
            header(b"x", b'0', 1024),
            content(b"1\n512\n512\n"),
            content(&data),
        ]
        .concat(),
        [sum(gnu), content(&data)].concat(),
    ] {
        let (entry, seen) = read(&tar).unwrap().remove(0);
        assert_eq!(entry.name, b"s");
        assert!(seen == expected);
    }
    for bad in ["512,512,0,0", "0,512,2000,100", "0,100", "0", "a,b"] {
        let records = [("GNU.sparse.size", "2048"), ("GNU.sparse.map", bad)];
        let tar = [pax(&records), header(b"s", b'0', 512), content(&data)].concat();
        assert!(read(&tar).is_err(), "{bad}");
    }
}

#[test]
fn what_is_broken_is_refused() {
    let good = [header(b"a", b'0', 600), content(&[1; 600])].concat();
    for cut in [1, 511, 513, 1111, 1535] {
        assert!(
            matches!(read(&good[..cut]), Err(TarError::Read(_))),
            "cut at {cut}"
        );
    }
    let mut wrong_sum = good.clone();
    wrong_sum[0] = b'b';
    assert!(matches!(read(&wrong_sum), Err(TarError::Header(_))));
    assert!(matches!(
        read(&header(b"a", b'M', 0)),
        Err(TarError::Kind(b'M'))
    ));
    let huge = header(b"a", b'L', SPECIAL_MAX + 1);
    assert!(matches!(read(&huge), Err(TarError::SpecialTooLarge(_))));
    let after_zeros = [vec![0; 512], header(b"a", b'0', 0)].concat();
    assert!(matches!(read(&after_zeros), Err(TarError::Header(_))));
}

proptest! {
    #[test]
    fn nothing_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..3000)) {
        let _ = read(&bytes);
    }

    #[test]
    fn no_damage_to_an_archive_makes_it_panic(at in 0_usize..4000, byte: u8) {
        let records = [("path", "p"), ("GNU.sparse.size", "2048"), ("GNU.sparse.map", "512,512"), ("mtime", "5.5")];
        let mut tar = [pax(&records), header(b"s", b'0', 512), content(&[1; 512]), header(b"x", b'L', 5), content(b"names"), header(b"n", b'2', 0)].concat();
        let at = at % tar.len();
        tar[at] = byte;
        // The checksum of the header that was hit is made right again.
        let start = at / BLOCK * BLOCK;
        let block = sum(tar[start..start + BLOCK].to_vec());
        if !(BLOCK..2 * BLOCK).contains(&start) {
            tar[start..start + BLOCK].copy_from_slice(&block);
        }
        let mut reader = TarReader::new(tar.as_slice());
        while let Ok(Some(_)) = reader.next_entry() {
            let mut total = 0_u64;
            let _ = reader.content(|piece| {
                total += match piece { Piece::Bytes(b) => b.len() as u64, Piece::Zeros(_) => 0 };
                Ok::<(), TarError>(())
            });
            prop_assert!(total <= 4096);
        }
    }
}
