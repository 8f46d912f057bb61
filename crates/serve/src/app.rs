//! The router and the layers around it. From the outside in: log and request id, panics, CORS, size of the head, keys, and
//! then the routes; what no route answers gets an error of the same shape.
use crate::error::ApiError;
use crate::options::Options;
use crate::state::State;
use crate::{auth, chat, completions, journal, messages, metrics, models, openapi, probes, responses, tokens, ui};
use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderValue, Method, StatusCode};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use std::any::Any;
use std::sync::Arc;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{AllowOrigin, Any as Anything, CorsLayer};

/// Bytes of a request's head.
const HEAD: usize = 64 << 10;
/// Its headers.
const HEADERS: usize = 100;

/// Every route of the server.
pub fn router(state: Arc<State>) -> Router {
    let mut routes: Router<Arc<State>> = Router::new()
        .route("/v1/chat/completions", post(chat::chat))
        .route("/v1/completions", post(completions::complete))
        .route("/v1/responses", post(responses::respond))
        .route("/v1/messages", post(messages::create))
        .route("/v1/messages/count_tokens", post(messages::count))
        .route("/v1/models", get(models::list))
        .route("/v1/models/{*model}", get(models::one))
        .route("/v1/embeddings", post(models::embeddings))
        .route("/tokenize", post(tokens::tokenize))
        .route("/detokenize", post(tokens::detokenize))
        .route("/tokenizer_info", get(tokens::info))
        .route("/health", get(probes::health))
        .route("/ready", get(probes::ready))
        .route("/version", get(probes::version))
        .route("/metrics", get(metrics::metrics))
        .route("/openapi.json", get(openapi::document));
    routes = routes.merge(ui::routes()).fallback(no_route).method_not_allowed_fallback(wrong_method);
    let guarded = routes.layer(from_fn_with_state(state.clone(), auth::guard)).layer(from_fn(check_head));
    let open = match cors(&state.options) {
        Some(cors) => guarded.layer(cors),
        None => guarded,
    };
    open.layer(CatchPanicLayer::custom(panicked))
        .layer(from_fn_with_state(state.clone(), journal::keep))
        .with_state(state)
}

async fn no_route(request: Request) -> ApiError {
    crate::intake::drain(request.into_body()).await;
    ApiError::status(StatusCode::NOT_FOUND, "there is nothing at this path: see /openapi.json").code("not_found")
}

async fn wrong_method(request: Request) -> ApiError {
    crate::intake::drain(request.into_body()).await;
    ApiError::status(StatusCode::METHOD_NOT_ALLOWED, "this path takes another method: see /openapi.json")
}

async fn check_head(request: Request, next: Next) -> Response {
    let of_headers = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 4);
    let bytes = of_headers.sum::<usize>() + request.uri().to_string().len();
    if bytes > HEAD {
        let message = format!("the request's head is too large: expected at most {HEAD} bytes, found {bytes}");
        return ApiError::status(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, message).into_response();
    }
    let count = request.headers().len();
    if count > HEADERS {
        let message = format!("the request's head is too large: expected at most {HEADERS} headers, found {count}");
        return ApiError::status(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, message).into_response();
    }
    next.run(request).await
}

/// Exactly the origins that were named; none by default.
fn cors(options: &Options) -> Option<CorsLayer> {
    if options.origins.is_empty() {
        return None;
    }
    let layer = CorsLayer::new().allow_methods([Method::GET, Method::POST]).allow_headers(Anything);
    let origins: Vec<HeaderValue> = options.origins.iter().filter_map(|origin| origin.parse().ok()).collect();
    Some(match options.origins.iter().any(|origin| origin == "*") {
        true => layer.allow_origin(Anything),
        false => layer.allow_origin(AllowOrigin::list(origins)),
    })
}

/// A panic concerns its own request only. What it says is not for callers.
fn panicked(_: Box<dyn Any + Send + 'static>) -> Response {
    ApiError::internal("the server has a fault: this request failed").into_response()
}
