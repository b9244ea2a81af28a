//! The owner API's routes: each reads its request, asks the engine or a store, and answers.

mod building;
mod catalog;
mod change;
mod config;
mod connect;
mod guest;
mod images;
mod kernels;
mod logs;
mod name;
mod operations;
mod problem;
mod stats;
mod system;
mod vms;

use axum::Router;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::state::Shared;

pub(crate) use problem::Problem;

#[derive(OpenApi)]
#[openapi(info(
    title = "banger owner API",
    version = "1",
    license(name = "Apache-2.0")
))]
struct Document;

fn build() -> OpenApiRouter<Shared> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(system::version))
        .routes(routes!(system::daemon))
        .routes(routes!(system::stop))
        .routes(routes!(system::doctor))
        .routes(routes!(config::show))
        .routes(routes!(vms::list, vms::create))
        .routes(routes!(vms::show, change::set, vms::delete))
        .routes(routes!(vms::start))
        .routes(routes!(vms::stop))
        .routes(routes!(change::restart))
        .routes(routes!(change::kill))
        .routes(routes!(vms::ssh))
        .routes(routes!(vms::ssh_access))
        .routes(routes!(stats::list))
        .routes(routes!(stats::show))
        .routes(routes!(stats::metrics))
        .routes(routes!(connect::connect))
        .routes(routes!(guest::list_ports))
        .routes(routes!(guest::unpulled))
        .routes(routes!(logs::logs))
        .routes(routes!(images::list))
        .routes(routes!(images::show, images::delete))
        .routes(routes!(images::build))
        .routes(routes!(building::build_on))
        .routes(routes!(building::go_on))
        .routes(routes!(images::pull))
        .routes(routes!(images::register))
        .routes(routes!(images::promote))
        .routes(routes!(kernels::list))
        .routes(routes!(kernels::show, kernels::delete))
        .routes(routes!(kernels::import))
        .routes(routes!(catalog::show))
        .routes(routes!(catalog::pull_image))
        .routes(routes!(catalog::pull_kernel))
        .routes(routes!(operations::show, operations::cancel))
        .routes(routes!(operations::events))
}

/// The whole API.
pub(crate) fn router(state: Shared) -> Router {
    let (router, document) = build().split_for_parts();
    let document = axum::Json(document);
    router
        .route(
            "/v1/openapi.json",
            axum::routing::get(move || async move { document }),
        )
        .fallback(problem::no_route)
        .method_not_allowed_fallback(problem::no_route)
        .layer(axum::extract::DefaultBodyLimit::max(1 << 20))
        .with_state(state)
}

#[cfg(test)]
mod tests {
    /// `docs/openapi.json` is what clients are written against. `BANGER_UPDATE=1` writes it anew.
    #[test]
    fn the_committed_document_is_this_one() {
        let document = super::build().split_for_parts().1;
        let ours = format!("{}\n", document.to_pretty_json().unwrap());
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/openapi.json");
        if std::env::var_os("BANGER_UPDATE").is_some() {
            std::fs::write(&path, &ours).unwrap();
        }
        assert_eq!(
            std::fs::read_to_string(path).unwrap(),
            ours,
            "BANGER_UPDATE=1 writes it anew"
        );
    }
}
