//! Unit files: templates with the owner's name and paths put in.

use crate::InstallSpec;
use crate::layout::lib_dir;

const TEMPLATES: &[(&str, &str)] = &[
    ("banger.slice", include_str!("../units/banger.slice")),
    (
        "bangerd-root.socket",
        include_str!("../units/bangerd-root.socket"),
    ),
    (
        "bangerd-root.service",
        include_str!("../units/bangerd-root.service"),
    ),
    (
        "bangerd-build.socket",
        include_str!("../units/bangerd-build.socket"),
    ),
    (
        "bangerd-build@.service",
        include_str!("../units/bangerd-build@.service"),
    ),
    ("bangerd.service", include_str!("../units/bangerd.service")),
    (
        "banger-guests.service",
        include_str!("../units/banger-guests.service"),
    ),
];

/// Every unit's name and text. The values hold nothing that a unit file would interpret: both
/// [`crate::Owner`] and [`InstallSpec::check`] see to it.
pub(crate) fn render(spec: &InstallSpec) -> Vec<(&'static str, String)> {
    let config = spec.owner.home.join(".config/banger");
    let kvm = match &spec.kvm_group {
        Some(group) => {
            format!(
                "# /dev/kvm belongs to this group; the owner need not be in it.\nSupplementaryGroups={group}\n"
            )
        }
        None => String::new(),
    };
    let fill = |template: &str| {
        template
            .replace("@OWNER@", &spec.owner.name)
            .replace("@LIB@", &lib_dir(&spec.prefix).display().to_string())
            .replace("@BIN@", &spec.prefix.join("bin").display().to_string())
            .replace("@CONFIG@", &config.display().to_string())
            .replace("@KVM@\n", &kvm)
    };
    TEMPLATES
        .iter()
        .map(|(name, template)| (*name, fill(template)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::example;

    #[test]
    fn nothing_is_left_to_fill_in_and_every_unit_is_known() {
        let units = render(&example());
        let mut names: Vec<&str> = units.iter().map(|(name, _)| *name).collect();
        let mut known = crate::UNITS.to_vec();
        names.sort_unstable();
        known.sort_unstable();
        assert_eq!(names, known);
        for (name, text) in units {
            for line in text.lines().filter(|line| !line.starts_with('#')) {
                let placeholder = line.contains("@OWNER@")
                    || line.contains("@LIB@")
                    || line.contains("@BIN@")
                    || line.contains("@CONFIG@")
                    || line.contains("@KVM@");
                assert!(!placeholder, "{name}: {line}");
            }
        }
    }
}
