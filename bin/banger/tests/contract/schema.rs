//! As much of JSON Schema as `docs/openapi.json` uses, and stricter: what a schema does not name may not be printed.

use std::fs;
use std::path::Path;

use serde_json::Value;

/// The schemas by name.
#[derive(Debug)]
pub(crate) struct Schemas(Value);

impl Schemas {
    pub(crate) fn load() -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/openapi.json");
        let text = fs::read_to_string(path).unwrap();
        let document: Value = serde_json::from_str(&text).unwrap();
        Self(document["components"]["schemas"].clone())
    }

    /// Checks a value against the schema of that name.
    pub(crate) fn check(&self, name: &str, value: &Value) {
        let schema = &self.0[name];
        assert!(schema.is_object(), "docs/openapi.json has no schema {name}");
        if let Err(why) = self.fits(schema, value, name) {
            panic!("{why}");
        }
    }

    fn fits(&self, schema: &Value, value: &Value, at: &str) -> Result<(), String> {
        if let Some(reference) = schema["$ref"].as_str() {
            let name = reference.rsplit('/').next().unwrap_or_default();
            return self.fits(&self.0[name], value, at);
        }
        for key in ["oneOf", "anyOf"] {
            if let Some(choices) = schema[key].as_array() {
                let tried = choices.iter().map(|choice| self.fits(choice, value, at));
                let errors: Vec<String> = tried.filter_map(Result::err).collect();
                if errors.len() == choices.len() {
                    return Err(format!(
                        "{at} fits none of its schemas: {}",
                        errors.join("; ")
                    ));
                }
            }
        }
        let types: Vec<&str> = match &schema["type"] {
            Value::String(one) => vec![one],
            Value::Array(all) => all.iter().filter_map(Value::as_str).collect(),
            _ => vec![],
        };
        let is = |name: &str| match name {
            "null" => value.is_null(),
            "boolean" => value.is_boolean(),
            "integer" => value.is_u64() || value.is_i64(),
            "number" => value.is_number(),
            "string" => value.is_string(),
            "array" => value.is_array(),
            "object" => value.is_object(),
            other => panic!("{at}: the type {other} is not known"),
        };
        if !types.is_empty() && !types.iter().any(|name| is(name)) {
            return Err(format!("{at} is {value}, not {types:?}"));
        }
        if let Some(words) = schema["enum"].as_array()
            && !words.contains(value)
        {
            return Err(format!("{at} is {value}, none of {words:?}"));
        }
        if let Some(items) = value.as_array() {
            for (number, item) in items.iter().enumerate() {
                self.fits(&schema["items"], item, &format!("{at}[{number}]"))?;
            }
        }
        let (Some(object), Some(properties)) =
            (value.as_object(), schema["properties"].as_object())
        else {
            return Ok(());
        };
        for required in schema["required"].as_array().into_iter().flatten() {
            let key = required.as_str().unwrap_or_default();
            if !object.contains_key(key) {
                return Err(format!("{at} has no {key}"));
            }
        }
        for (key, value) in object {
            let Some(property) = properties.get(key) else {
                return Err(format!("{at} has {key}, which no schema names"));
            };
            self.fits(property, value, &format!("{at}.{key}"))?;
        }
        Ok(())
    }
}

#[test]
fn what_does_not_fit_is_found() {
    let schemas = Schemas::load();
    let error =
        serde_json::json!({ "code": "internal", "message": "x", "causes": [], "hints": [] });
    schemas.check("ApiError", &error);
    for (key, wrong) in [
        ("code", Value::Null),
        ("hints", "x".into()),
        ("extra", 1.into()),
    ] {
        let mut bad = error.clone();
        bad[key] = wrong;
        let fits = schemas.fits(&schemas.0["ApiError"], &bad, "it");
        assert!(fits.is_err(), "{key}");
    }
}
