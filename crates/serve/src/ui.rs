//! Pages for people: Swagger UI at `/`. They hold nothing but themselves, so they need no key; what they ask for does.
use crate::error::ApiError;
use axum::http::{HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
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

/// Paths that this file answers.
pub fn pages() -> impl Iterator<Item = &'static str> {
    FILES.into_iter()
}

/// Whether a path is one of them.
pub fn is_page(path: &str) -> bool {
    FILES.contains(&path)
}

/// A file of Swagger UI.
pub async fn swagger(uri: Uri) -> Response {
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
