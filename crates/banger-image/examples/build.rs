//! Builds an image without a daemon: `cargo run -p banger-image --example build -- STORE RECIPE`.
#![expect(clippy::print_stdout, reason = "an example shows its work")]

use banger_image::{BuildWatch, ImageStore, Recipe};

struct Show;

impl BuildWatch for Show {
    fn step(&self, title: &str) {
        println!("== {title}");
    }

    fn line(&self, text: &str) {
        println!("   {text}");
    }

    fn cancelled(&self) -> bool {
        false
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(store), Some(recipe)) = (args.next(), args.next()) else {
        return Err("usage: build STORE RECIPE".into());
    };
    let store = ImageStore::open(std::path::absolute(store)?)?;
    let log = std::env::temp_dir().join("banger-image-build.log");
    let image = store.build(&Recipe::load(&recipe.parse()?)?, &log, &Show)?;
    println!("{} {:?}", image.rootfs().display(), image.sizes()?);
    Ok(())
}
