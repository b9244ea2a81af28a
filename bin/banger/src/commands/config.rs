//! `config show`.

use banger_api::{ConfigEntry, ConfigOrigin, ConfigView};

use super::show::table;
use super::{CommandResult, Context};
use crate::start::Needs;

/// `config show`.
pub(crate) async fn show(context: &Context<'_>) -> CommandResult {
    let client = context.client(Needs::Daemon).await?;
    let view = client.config().await?;
    context.ui.result(&view, text);
    if view.changed {
        context.ui.note(&format!(
            "{} has changed since the daemon read it: what it says now holds when the daemon is started anew",
            view.file
        ));
    }
    Ok(0)
}

fn text(view: &ConfigView) -> String {
    let row = |entry: &ConfigEntry| vec![entry.key.clone(), entry.value.clone(), origin(entry)];
    table(
        &["KEY", "VALUE", "ORIGIN"],
        view.entries.iter().map(row).collect(),
    )
}

fn origin(entry: &ConfigEntry) -> String {
    let file = entry.file.clone().unwrap_or_default();
    match (entry.origin, entry.line, &entry.variable) {
        (ConfigOrigin::Default, ..) => "default".to_owned(),
        (ConfigOrigin::Environment, _, Some(variable)) => format!("${variable}"),
        (ConfigOrigin::Environment, _, None) => "environment".to_owned(),
        (ConfigOrigin::File, Some(line), _) => format!("{file}:{line}"),
        (ConfigOrigin::File, None, _) => file,
        (ConfigOrigin::Root, ..) => format!("{file} (root's)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view() -> ConfigView {
        let entry = |key: &str, value: &str, origin| ConfigEntry {
            key: key.to_owned(),
            value: value.to_owned(),
            origin,
            file: None,
            line: None,
            variable: None,
        };
        ConfigView {
            file: "/home/me/.config/banger/config.toml".into(),
            changed: false,
            entries: vec![
                entry("log_level", "\"info\"", ConfigOrigin::Default),
                ConfigEntry {
                    file: Some("/home/me/.config/banger/config.toml".into()),
                    line: Some(3),
                    ..entry("vmm", "\"qemu\"", ConfigOrigin::File)
                },
                ConfigEntry {
                    variable: Some("BANGER_VM_DEFAULTS_VCPU".into()),
                    ..entry("vm_defaults.vcpu", "4", ConfigOrigin::Environment)
                },
                ConfigEntry {
                    file: Some("/etc/banger/root.toml".into()),
                    ..entry("cidr", "\"10.9.0.0/24\"", ConfigOrigin::Root)
                },
            ],
        }
    }

    #[test]
    fn the_table() {
        insta::assert_snapshot!(text(&view()));
    }

    #[test]
    fn the_json() {
        insta::assert_json_snapshot!(view());
    }
}
