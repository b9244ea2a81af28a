//! Recipes: what an image is made of. They are part of the program, so that an installed banger needs
//! no checkout.

use banger_core::{Digest, ImageName};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use crate::BuildError;

const KNOWN: &[(&str, &str, &str)] = &[
    (
        "debian-bookworm",
        include_str!("../../../images/debian-bookworm/recipe.toml"),
        include_str!("../../../images/debian-bookworm/customize.sh"),
    ),
    (
        "debian-minimal",
        include_str!("../../../images/debian-minimal/recipe.toml"),
        include_str!("../../../images/debian-minimal/customize.sh"),
    ),
];

/// A recipe.
#[derive(Debug, Clone)]
pub struct Recipe {
    /// Its name, and that of the image.
    pub name: ImageName,
    /// What tells it from other versions of itself.
    pub fingerprint: Digest,
    pub(crate) contents: Contents,
    pub(crate) customize: &'static str,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Contents {
    pub(crate) suite: String,
    pub(crate) variant: String,
    pub(crate) free_gib: u64,
    pub(crate) packages: Vec<String>,
    /// Packages whose versions are worth showing.
    pub(crate) contents: Vec<String>,
    /// Units that the image promises.
    pub(crate) ready: Vec<String>,
}

impl Recipe {
    /// The names of all recipes.
    pub fn names() -> impl Iterator<Item = &'static str> {
        KNOWN.iter().map(|(name, ..)| *name)
    }

    /// The recipe of that name.
    ///
    /// # Errors
    /// There is none.
    pub fn load(name: &ImageName) -> Result<Self, BuildError> {
        let known = KNOWN.iter().find(|(known, ..)| *known == name.as_str());
        let (_, text, customize) = known.ok_or_else(|| BuildError::NoRecipe(name.to_string()))?;
        let contents =
            toml::from_str(text).map_err(|error| BuildError::Recipe(error.to_string()))?;
        let hash = Sha256::new()
            .chain_update(text)
            .chain_update(customize)
            .finalize();
        Ok(Self {
            name: name.clone(),
            fingerprint: Digest::of_sha256(hash.into()),
            contents,
            customize,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_recipe_can_be_read_and_has_a_fingerprint_of_its_own() {
        let load = |name: &str| Recipe::load(&name.parse().unwrap()).unwrap();
        let prints: std::collections::HashSet<_> =
            Recipe::names().map(|name| load(name).fingerprint).collect();
        assert_eq!(prints.len(), Recipe::names().count());
        assert!(Recipe::load(&"no-such".parse().unwrap()).is_err());
    }
}
