//! `/openapi.json`, made of the handlers and the types that they read and write.
use crate::{chat, completions, models, probes, tokens};
use axum::Json;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::{Modify, OpenApi};

/// The document.
#[derive(OpenApi)]
#[openapi(
    info(title = "Planish", description = "OpenAI-compatible server for 8-bit models"),
    paths(
        chat::chat,
        completions::complete,
        crate::responses::respond,
        crate::messages::create,
        crate::messages::count,
        models::list,
        models::one,
        models::embeddings,
        tokens::tokenize,
        tokens::detokenize,
        tokens::info,
        probes::health,
        probes::ready,
        probes::version,
        crate::metrics::metrics,
    ),
    components(schemas(crate::wire::messages::Block)),
    security((), ("key" = [])),
    modifiers(&Key)
)]
struct Document;

struct Key;

impl Modify for Key {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        document.components.get_or_insert_default().add_security_scheme("key", scheme);
    }
}

/// The document as JSON.
pub async fn document() -> Json<utoipa::openapi::OpenApi> {
    Json(Document::openapi())
}
