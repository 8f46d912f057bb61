//! Pages for people: Swagger UI at `/`, a chat at `/chat`. They hold nothing but themselves, so they need no key; what they ask for does.
use crate::error::ApiError;
use axum::Router;
use axum::http::{HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use std::sync::Arc;
use utoipa_swagger_ui::{Config, SwaggerFile};

/// Files of Swagger UI.
const FILES: [&str; 8] = [
    "/",
    "/index.css",
    "/swagger-ui.css",
    "/swagger-ui-bundle.js",
    "/swagger-ui-standalone-preset.js",
    "/swagger-initializer.js",
    "/favicon-16x16.png",
    "/favicon-32x32.png",
];

/// The chat page: path, content type, text.
const CHAT: [(&str, &str, &str); 4] = [
    ("/chat", "text/html; charset=utf-8", include_str!("../pages/chat.html")),
    ("/chat.css", "text/css; charset=utf-8", include_str!("../pages/chat.css")),
    ("/markdown.js", "text/javascript; charset=utf-8", include_str!("../pages/markdown.js")),
    ("/chat.js", "text/javascript; charset=utf-8", include_str!("../pages/chat.js")),
];

/// What the chat page may do: load its own parts and ask this server, nothing else.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The routes of all pages.
pub fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    let swagger = FILES.into_iter().fold(Router::new(), |routes, path| routes.route(path, get(swagger)));
    CHAT.into_iter().fold(swagger, |routes, (path, kind, text)| {
        let headers = [(header::CONTENT_TYPE, kind), (header::CONTENT_SECURITY_POLICY, POLICY)];
        routes.route(path, get(move || async move { (headers, text) }))
    })
}

/// Whether a path is a page.
pub fn is_page(path: &str) -> bool {
    FILES.contains(&path) || CHAT.iter().any(|(known, ..)| *known == path)
}

/// A file of Swagger UI.
async fn swagger(uri: Uri) -> Response {
    let config = Config::new(["/openapi.json"]).try_it_out_enabled(true).persist_authorization(true);
    match utoipa_swagger_ui::serve(uri.path().trim_start_matches('/'), Arc::new(config)) {
        Ok(Some(file)) => respond(file),
        _ => ApiError::status(StatusCode::NOT_FOUND, "there is no such page").into_response(),
    }
}

fn respond(file: SwaggerFile<'_>) -> Response {
    let kind = HeaderValue::from_str(&file.content_type).unwrap_or(HeaderValue::from_static("text/plain"));
    let mut response = file.bytes.into_owned().into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}
