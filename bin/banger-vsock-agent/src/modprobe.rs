//! A small modprobe(8), for images that have none: the kernel asks for an alias, its module and what
//! that depends on are loaded.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::Path;
use std::process::ExitCode;

use rustix::io::Errno;

/// The kernel decompresses the module itself (finit_module(2), `MODULE_INIT_COMPRESSED_FILE`).
const COMPRESSED: i32 = 4;

/// As the kernel calls it: `modprobe -q -- NAME` (`kernel/module/kmod.c`).
pub(crate) fn main(args: &[OsString]) -> ExitCode {
    let names = args.iter().filter_map(|arg| arg.to_str());
    let release = rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned();
    let folder = Path::new("/lib/modules").join(release);
    let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap_or_default();
    let (dependencies, aliases) = (read("modules.dep"), read("modules.alias"));
    let mut code = ExitCode::SUCCESS;
    for name in names.filter(|name| !name.starts_with('-')) {
        let files = files_for(name, &dependencies, &aliases);
        if files.is_empty() || !files.iter().all(|file| load(&folder.join(file))) {
            code = ExitCode::FAILURE;
        }
    }
    code
}

fn load(path: &Path) -> bool {
    let Ok(file) = File::open(path) else {
        return false;
    };
    let plain = path.extension().is_some_and(|extension| extension == "ko");
    let flags = if plain { 0 } else { COMPRESSED };
    matches!(
        rustix::system::finit_module(&file, c"", flags),
        Ok(()) | Err(Errno::EXIST)
    )
}

/// The files to load for a name or alias, each after what it needs.
fn files_for(name: &str, dependencies: &str, aliases: &str) -> Vec<String> {
    let matching = aliases.lines().filter_map(|line| {
        let mut words = line.strip_prefix("alias ")?.split_whitespace();
        let (pattern, module) = (words.next()?, words.next()?);
        fits(pattern.as_bytes(), name.as_bytes()).then_some(module)
    });
    let mut files = vec![];
    for module in std::iter::once(name).chain(matching) {
        for line in dependencies.lines() {
            let Some((file, needed)) = line.split_once(':') else {
                continue;
            };
            if module_name(file) != canonical(module) {
                continue;
            }
            // modules.dep(5): what must be loaded first stands last.
            let needed = needed.split_whitespace().rev();
            for file in needed.chain([file]) {
                if !files.iter().any(|known| known == file) {
                    files.push(file.to_owned());
                }
            }
        }
    }
    files
}

fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

fn module_name(file: &str) -> String {
    let base = file.rsplit('/').next().unwrap_or(file);
    canonical(base.split(".ko").next().unwrap_or(base))
}

/// fnmatch(3) with `*`, `?` and `[…]`, as far as modules.alias uses them.
fn fits(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern.split_first(), text.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), _) => {
            fits(rest, text) || text.split_first().is_some_and(|(_, t)| fits(pattern, t))
        }
        (Some((b'?', p)), Some((_, t))) => fits(p, t),
        (Some((b'[', p)), Some((c, t))) => {
            let Some(end) = p.iter().position(|b| *b == b']') else {
                return false;
            };
            in_set(&p[..end], *c) && fits(&p[end + 1..], t)
        }
        (Some((a, p)), Some((b, t))) => a == b && fits(p, t),
        _ => false,
    }
}

fn in_set(set: &[u8], c: u8) -> bool {
    let mut rest = set;
    while let Some((first, after)) = rest.split_first() {
        if let [b'-', last, ..] = after {
            if (*first..=*last).contains(&c) {
                return true;
            }
            rest = &after[2..];
        } else {
            if *first == c {
                return true;
            }
            rest = after;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEP: &str = "kernel/net/a-b.ko.xz: kernel/lib/c.ko kernel/lib/d.ko\n\
        kernel/lib/c.ko: kernel/lib/d.ko\nkernel/lib/d.ko:\n";

    #[test]
    fn what_is_needed_comes_first() {
        let files = files_for("a_b", DEP, "");
        assert_eq!(
            files,
            ["kernel/lib/d.ko", "kernel/lib/c.ko", "kernel/net/a-b.ko.xz"]
        );
        let by_alias = files_for("net-pf-40", DEP, "alias net-pf-4[0-2] c\n");
        assert_eq!(by_alias, ["kernel/lib/d.ko", "kernel/lib/c.ko"]);
        assert!(files_for("none", DEP, "alias x c\n").is_empty());
    }

    proptest::proptest! {
        #[test]
        fn patterns_never_panic(pattern in "[a-c*?\\[\\]-]{0,12}", text in "[a-c]{0,12}") {
            let _ = fits(pattern.as_bytes(), text.as_bytes());
        }
    }
}
