//! The work seed: the image's own `/root` as a file system.

use std::collections::HashMap;
use std::fs::File;

use banger_ext4::{
    Content, DataWriter, FormatError, FsOptions, Node, NodeId, Tree, copy_contents, format,
};

/// Writes it into `to`; empty when the image has no `/root`. Contents come out of the root file system.
pub(crate) fn make(
    tree: &Tree,
    rootfs: &File,
    to: File,
    options: &FsOptions,
) -> Result<(), FormatError> {
    let mut writer = DataWriter::new(to);
    let root = child(tree, Tree::ROOT, b"root").filter(|id| is_directory(tree, *id));
    let seed = match root {
        Some(root) => subtree(tree, root, rootfs, &mut writer)?,
        None => Tree::empty(0o700),
    };
    format(writer, &seed, options).map(drop)
}

pub(crate) fn child(tree: &Tree, directory: NodeId, name: &[u8]) -> Option<NodeId> {
    match &tree.node(directory).content {
        Content::Directory(names) => names
            .iter()
            .find(|(known, _)| **known == *name)
            .map(|(_, id)| *id),
        _ => None,
    }
}

pub(crate) fn is_directory(tree: &Tree, id: NodeId) -> bool {
    matches!(tree.node(id).content, Content::Directory(_))
}

/// A copy of what is below a directory; names that lead to one file still do.
fn subtree(
    tree: &Tree,
    root: NodeId,
    rootfs: &File,
    writer: &mut DataWriter,
) -> Result<Tree, FormatError> {
    let mut numbers = HashMap::from([(root, NodeId(0))]);
    let mut order = vec![root];
    let mut nodes = Vec::new();
    while let Some(id) = order.get(nodes.len()).copied() {
        let Node {
            attributes,
            content,
        } = tree.node(id);
        let content = match content {
            Content::Directory(names) => {
                let mut number = |id: NodeId| {
                    *numbers.entry(id).or_insert_with(|| {
                        order.push(id);
                        NodeId(order.len() - 1)
                    })
                };
                Content::Directory(
                    names
                        .iter()
                        .map(|(name, id)| (name.clone(), number(*id)))
                        .collect(),
                )
            }
            Content::File(data) => Content::File(copy_contents(rootfs, data, writer)?),
            other => other.clone(),
        };
        nodes.push(Node {
            attributes: attributes.clone(),
            content,
        });
    }
    Ok(Tree { nodes })
}
