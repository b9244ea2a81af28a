//! What an image runs as a container: `vm run --entrypoint`.

use banger_api::{Image, ImageRunConfig};
use banger_core::ErrorCode;
use banger_guest_proto::ExecRequest;

use crate::error::CommandError;

/// The request that runs what the image would run. `words` take the place of its command; `env` comes on top of its
/// environment. Pure.
///
/// # Errors
/// The image is none of a container, or has nothing to run.
pub(crate) fn request(
    image: &Image,
    words: Vec<String>,
    env: Vec<(String, String)>,
) -> Result<ExecRequest, CommandError> {
    let refuse = |what: String| {
        let error = CommandError::new(ErrorCode::InvalidArgument, what);
        Err(error.hint("give a command after `--`, without --entrypoint"))
    };
    let Some(config) = &image.config else {
        return refuse(format!(
            "the image `{}` was not made as a container's, and has no entry point",
            image.name
        ));
    };
    let rest = if words.is_empty() {
        config.cmd.clone()
    } else {
        words
    };
    let argv: Vec<String> = config.entrypoint.iter().cloned().chain(rest).collect();
    if argv.is_empty() {
        return refuse(format!(
            "the image `{}` has neither an entry point nor a command",
            image.name
        ));
    }
    let mut request = ExecRequest::new(argv);
    request.env = variables(config);
    request.env.extend(env);
    request.user = user(config);
    let folder = Some(&config.working_dir).filter(|folder| !folder.is_empty());
    request.cwd = Some(folder.map_or("/", String::as_str).to_owned());
    Ok(request)
}

/// Those that are variables.
fn variables(config: &ImageRunConfig) -> Vec<(String, String)> {
    let pairs = config.env.iter().filter_map(|pair| pair.split_once('='));
    pairs
        .filter(|(name, _)| !name.is_empty())
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// The user, by name or number. A group behind a colon is left out: it is the user's own.
fn user(config: &ImageRunConfig) -> Option<String> {
    let user = config.user.split(':').next().unwrap_or_default();
    (!user.is_empty()).then(|| user.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(config: Option<ImageRunConfig>) -> Image {
        let json = serde_json::json!({
            "name": "tool", "digest": "", "origin": "pulled", "reference": null, "config": config,
            "rootfs": "", "work_seed": null, "kernel": null, "size": 0, "disk_usage": 0,
            "recipe_fingerprint": null, "stale": false, "created_at": "", "contents": [],
        });
        serde_json::from_value(json).unwrap()
    }

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    fn config() -> ImageRunConfig {
        ImageRunConfig {
            entrypoint: words("/bin/tool --quiet"),
            cmd: words("serve all"),
            env: words("PATH=/opt/bin A=b=c nonsense =x"),
            user: "nobody:nogroup".to_owned(),
            working_dir: "/srv".to_owned(),
            ..ImageRunConfig::default()
        }
    }

    #[test]
    fn it_is_what_a_container_would_run() {
        let request = request(
            &image(Some(config())),
            vec![],
            vec![("A".into(), "z".into())],
        );
        let request = request.unwrap();
        assert_eq!(request.argv, words("/bin/tool --quiet serve all"));
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let env = [pair("PATH", "/opt/bin"), pair("A", "b=c"), pair("A", "z")];
        assert_eq!(request.env, env, "the later one counts");
        assert_eq!(request.user.as_deref(), Some("nobody"));
        assert_eq!(request.cwd.as_deref(), Some("/srv"));
    }

    #[test]
    fn words_take_the_place_of_the_command_alone() {
        let given = request(&image(Some(config())), words("--version"), vec![]).unwrap();
        assert_eq!(given.argv, words("/bin/tool --quiet --version"));
        let bare = ImageRunConfig {
            cmd: words("sh"),
            ..ImageRunConfig::default()
        };
        let bare = request(&image(Some(bare)), vec![], vec![]).unwrap();
        assert_eq!((bare.argv, bare.user), (words("sh"), None));
        assert_eq!(bare.cwd.as_deref(), Some("/"));
    }

    #[test]
    fn an_image_with_nothing_to_run_is_told_of() {
        let none = request(&image(None), words("x"), vec![]).unwrap_err();
        assert!(none.0.message.contains("not made as a container's"));
        let empty = request(&image(Some(ImageRunConfig::default())), vec![], vec![]);
        assert!(empty.unwrap_err().0.message.contains("neither"));
    }
}
