//! Readable names for VMs that were given none.

use banger_core::VmName;

const ADJECTIVES: &[&str] = &[
    "able", "brave", "bright", "brisk", "calm", "clever", "cosy", "crisp", "eager", "fair",
    "fancy", "fine", "fresh", "gentle", "glad", "grand", "happy", "keen", "kind", "lively",
    "lucid", "lucky", "mellow", "merry", "neat", "noble", "proud", "quick", "quiet", "rapid",
    "sharp", "shiny", "smart", "snappy", "solid", "sunny", "swift", "tidy", "vivid", "warm",
    "wise", "witty",
];
const NOUNS: &[&str] = &[
    "badger", "beaver", "bison", "crane", "dingo", "eagle", "falcon", "ferret", "finch", "fox",
    "gecko", "hare", "heron", "ibex", "jackal", "koala", "lemur", "lynx", "marten", "mole",
    "moose", "newt", "ocelot", "orca", "otter", "owl", "panda", "pike", "puffin", "quail", "raven",
    "robin", "seal", "stoat", "swan", "tapir", "tern", "toad", "vole", "walrus", "wolf", "wren",
];

/// A name made from chance: two words, and a number when they are many times taken.
///
/// # Panics
/// Never: the words above are labels.
pub(crate) fn readable(entropy: [u8; 6], is_taken: impl Fn(&VmName) -> bool) -> VmName {
    let pick = |words: &[&'static str], byte: u8| words[usize::from(byte) % words.len()];
    let base = format!(
        "{}-{}",
        pick(ADJECTIVES, entropy[0]),
        pick(NOUNS, entropy[1])
    );
    let numbered = |number: u32| match number {
        0 => base.clone(),
        number => format!("{base}-{number}"),
    };
    (0..)
        .map(|number| {
            numbered(number)
                .parse::<VmName>()
                .expect("two plain words are a label")
        })
        .find(|name| !is_taken(name))
        .expect("there are more numbers than VMs")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_makes_a_label_and_a_taken_name_gets_a_number() {
        for byte in 0..=255 {
            readable([byte, byte, 0, 0, 0, 0], |_| false);
        }
        let first = readable([0; 6], |_| false);
        assert_eq!(
            readable([0; 6], |name| *name == first).as_str(),
            format!("{first}-1")
        );
    }
}
