//! The configuration as it is in force, with each value's origin.

use axum::Json;
use axum::extract::State;
use banger_api::{ConfigEntry, ConfigOrigin, ConfigView};

use crate::config::{self, KEYS, Key, Origins};
use crate::sizes::{Asked, effective};
use crate::start;
use crate::state::Shared;

/// Every key, its value and where that comes from.
#[utoipa::path(get, path = "/v1/config", responses((status = 200, body = ConfigView)))]
pub(crate) async fn show(State(state): State<Shared>) -> Json<ConfigView> {
    let root = state.args.root_config.as_ref();
    let decided = |key: &str| {
        let value = match key {
            "bridge_name" => state.config.bridge_name.clone(),
            "bridge_ip" => state.config.bridge_ip.map(|ip| ip.to_string()),
            "cidr" => state.config.cidr.clone(),
            "firecracker_bin" => {
                let path = state.config.firecracker_bin.as_ref();
                path.map(|path| path.display().to_string())
            }
            _ => None,
        }?;
        Some((root?.display().to_string(), value))
    };
    let mut entries = entries(&state.origins, |key| default(&state, key), decided);
    entries.sort_by_key(|entry| order(&entry.key));
    Json(ConfigView {
        file: state.origins.file.display().to_string(),
        changed: has_changed(&state.origins),
        entries,
    })
}

/// Whether what would be read now is something else.
fn has_changed(origins: &Origins) -> bool {
    config::load(&origins.file, &start::home())
        .map_or(true, |now| now.origins.places != origins.places)
}

/// What holds where nobody says anything.
fn default(state: &Shared, key: &Key) -> String {
    let (spec, _) = effective(Asked::default(), &state.config.vm_defaults, state.host);
    match key.path {
        "vm_defaults.vcpu" => spec.vcpu.to_string(),
        "vm_defaults.memory_mib" => spec.memory_mib.0.to_string(),
        "ssh_key_path" => format!("\"{}\"", state.owner_key.display()),
        "bridge_ip" => match state.config.network() {
            Ok(plan) => format!("\"{}\"", plan.bridge_ip),
            Err(_) => key.default.to_owned(),
        },
        "firecracker_bin" | "default_dns" | "catalog.location" | "catalog.public_key" => {
            key.default.to_owned()
        }
        _ => written(key.default),
    }
}

/// A value as it stands in a file: a number bare, anything else in quotes.
fn written(value: &str) -> String {
    match value.parse::<i64>() {
        Ok(_) => value.to_owned(),
        Err(_) => format!("{value:?}"),
    }
}

/// Root's word, the environment's, the file's, the default: the first of them.
fn entries(
    origins: &Origins,
    default: impl Fn(&Key) -> String,
    root: impl Fn(&str) -> Option<(String, String)>,
) -> Vec<ConfigEntry> {
    let file = origins.file.display().to_string();
    let in_file = |key: &str, line: u32, value: &str| ConfigEntry {
        key: key.to_owned(),
        value: value.to_owned(),
        origin: ConfigOrigin::File,
        file: Some(file.clone()),
        line: Some(line),
        variable: None,
    };
    let one = |key: &Key| {
        let entry = |origin, value| ConfigEntry {
            key: key.path.to_owned(),
            value,
            origin,
            file: None,
            line: None,
            variable: None,
        };
        if let Some((file, value)) = root(key.path) {
            return ConfigEntry {
                file: Some(file),
                ..entry(ConfigOrigin::Root, written(&value))
            };
        }
        let mut variables = origins.variables.iter();
        if let Some((_, variable, value)) = variables.find(|(path, ..)| *path == key.path) {
            return ConfigEntry {
                variable: Some(variable.clone()),
                ..entry(ConfigOrigin::Environment, written(value))
            };
        }
        match origins.places.iter().find(|place| place.path == key.path) {
            Some(place) => in_file(&place.path, place.line, &place.value),
            None => entry(ConfigOrigin::Default, default(key)),
        }
    };
    let values = KEYS.iter().filter(|key| key.is_value).map(one);
    let known = |path: &str| KEYS.iter().any(|key| key.path == path);
    let parts = origins.places.iter().filter(|place| !known(&place.path));
    let parts = parts.map(|place| in_file(&place.path, place.line, &place.value));
    values.chain(parts).collect()
}

/// Sections after what stands above them, in the reference's order.
fn order(key: &str) -> (usize, String) {
    let at = KEYS.iter().position(|known| known.path == key);
    let of_section = at.map_or_else(|| key.to_owned(), |_| String::new());
    (at.unwrap_or(KEYS.len()), of_section)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Place;

    fn origins() -> Origins {
        let place = |path: &str, line, value: &str| Place {
            path: path.to_owned(),
            line,
            value: value.to_owned(),
        };
        Origins {
            file: "/h/config.toml".into(),
            places: vec![
                place("cidr", 2, "\"10.0.0.0/24\""),
                place("vmm", 3, "\"qemu\""),
                place("log_level", 4, "\"warn\""),
                place("file_sync[0].host", 6, "\"~/.gitconfig\""),
            ],
            variables: vec![("log_level", "BANGER_LOG_LEVEL".into(), "debug".into())],
        }
    }

    #[test]
    fn each_value_has_the_origin_that_wins() {
        let root = |key: &str| {
            (key == "cidr").then(|| ("/etc/root.toml".to_owned(), "10.9.0.0/24".to_owned()))
        };
        let all = entries(&origins(), |key| written(key.default), root);
        let of = |key: &str| all.iter().find(|entry| entry.key == key).unwrap();
        assert_eq!(of("cidr").origin, ConfigOrigin::Root);
        assert_eq!(of("cidr").value, "\"10.9.0.0/24\"");
        assert_eq!(of("log_level").origin, ConfigOrigin::Environment);
        assert_eq!(of("log_level").value, "\"debug\"");
        assert_eq!(
            (of("vmm").origin, of("vmm").line),
            (ConfigOrigin::File, Some(3))
        );
        assert_eq!(of("storage").origin, ConfigOrigin::Default);
        assert_eq!(of("file_sync[0].host").line, Some(6));
        let values = KEYS.iter().filter(|key| key.is_value).count();
        assert_eq!(all.len(), values + 1);
    }

    #[test]
    fn a_default_is_written_as_a_file_would_have_it() {
        assert_eq!(
            (written("0"), written("auto")),
            ("0".into(), "\"auto\"".into())
        );
    }
}
