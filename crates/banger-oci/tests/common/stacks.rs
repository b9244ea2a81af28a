//! Random stacks of layers.

use proptest::prelude::*;

use super::{Layer, Meta, Packing};

pub(crate) fn meta(mode: u32, uid: u32, gid: u32, mtime: &str) -> Meta {
    Meta {
        mode,
        uid,
        gid,
        mtime: mtime.to_owned(),
        xattrs: vec![],
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Step {
    kind: u8,
    name: String,
    other: String,
    mode: u32,
    content: Vec<u8>,
    next_layer: bool,
}

/// Mostly such that what others lie in stays a directory, or umoci refuses nearly everything.
fn name() -> impl Strategy<Value = String> {
    let parents = proptest::collection::vec("[abc]", 0..3);
    (parents, "[a-cw-z]").prop_map(|(mut parts, last)| {
        parts.push(last);
        parts.join("/")
    })
}

pub(crate) fn step() -> impl Strategy<Value = Step> {
    let kind = prop_oneof![
        4 => Just(b'0'), 3 => Just(b'5'), 2 => Just(b'2'), 2 => Just(b'1'), 1 => Just(b'6'),
        2 => Just(b'w'), 1 => Just(b'o'),
    ];
    let content = prop_oneof![
        3 => proptest::collection::vec(any::<u8>(), 0..6000),
        // Zeros, some of which become holes.
        1 => (0_usize..100_000, any::<u8>(), 0_usize..9000)
            .prop_map(|(zeros, byte, more)| [vec![0; zeros], vec![byte; more]].concat()),
    ];
    (
        kind,
        name(),
        name(),
        0_u32..0o10000,
        content,
        proptest::bool::weighted(0.15),
    )
        .prop_map(|(kind, name, other, mode, content, next_layer)| Step {
            kind,
            name,
            other,
            mode,
            content,
            next_layer,
        })
}

pub(crate) fn layers_of(steps: &[Step]) -> Vec<(Vec<u8>, Packing)> {
    let mut layers = vec![Layer::default()];
    let (mut names, mut at) = (vec![String::new()], 0);
    for (n, step) in steps.iter().enumerate() {
        if step.next_layer && layers.last().is_some_and(|layer| !layer.tar.is_empty()) {
            layers.push(Layer::default());
        }
        let layer = layers.pop().unwrap();
        let meta = meta(
            step.mode,
            n as u32,
            7,
            &format!("{}.{n:09}", 1_400_000_000 + n),
        );
        let (folder, file) = step.name.rsplit_once('/').unwrap_or(("", &step.name));
        let layer = match step.kind {
            b'w' => layer.file(&format!("{folder}/.wh.{file}"), b""),
            b'o' => layer.file(&format!("{}/.wh..wh..opq", step.name), b""),
            b'1' => {
                // Mostly to something that was there once.
                at = (at + step.content.len()) % names.len();
                layer.link(&step.name, &names[at])
            }
            kind => {
                let content = if kind == b'0' {
                    step.content.as_slice()
                } else {
                    b""
                };
                let target = if step.mode % 3 == 0 {
                    format!("/{}", step.other)
                } else {
                    format!("../{}", step.other)
                };
                layer.entry(
                    step.name.as_bytes(),
                    kind,
                    target.as_bytes(),
                    &meta,
                    content,
                    (0, 0),
                )
            }
        };
        if matches!(step.kind, b'0' | b'6') {
            names.push(step.name.clone());
        }
        layers.push(layer);
    }
    layers
        .into_iter()
        .map(|layer| (layer.finish(), Packing::Plain))
        .collect()
}
