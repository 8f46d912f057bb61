//! What a caller is told when something cannot be done: OpenAI's error object, on every path. No message holds text of a
//! prompt, a path of this machine or an address.
use axum::Json;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use planish_engine::Error as EngineError;
use planish_text::TextError;
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

/// A refusal or a failure.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// HTTP status.
    pub status: StatusCode,
    /// What was expected and what was found.
    pub message: String,
    /// The field that is to blame.
    pub param: Option<String>,
    /// A word for programs.
    pub code: Option<&'static str>,
    /// Seconds after which it makes sense to try again.
    pub retry_after: Option<u64>,
}

/// The body of every error.
#[derive(Serialize, ToSchema)]
pub struct ErrorBody {
    /// What went wrong.
    pub error: ErrorObject,
}

/// OpenAI's error object.
#[derive(Serialize, ToSchema)]
pub struct ErrorObject {
    /// For people.
    pub message: String,
    /// The kind, such as `invalid_request_error`.
    pub r#type: &'static str,
    /// The field that is to blame, or null.
    pub param: Option<String>,
    /// A word for programs, or null.
    pub code: Option<&'static str>,
}

/// Result of handling a request.
pub type Result<T, E = ApiError> = std::result::Result<T, E>;

impl ApiError {
    fn new(status: StatusCode, message: impl Into<String>) -> ApiError {
        ApiError { status, message: message.into(), param: None, code: None, retry_after: None }
    }

    /// A value that cannot be used; names the field.
    pub fn invalid(param: impl Into<String>, message: impl Into<String>) -> ApiError {
        ApiError { param: Some(param.into()), ..ApiError::new(StatusCode::BAD_REQUEST, message) }
    }

    /// A request that is wrong as a whole.
    pub fn bad_request(message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::BAD_REQUEST, message)
    }

    /// A field that is known but that this server does not offer.
    pub fn unsupported(param: &str) -> ApiError {
        let error = ApiError::invalid(param, format!("{param} is not supported by this server: leave it out"));
        error.code("unsupported_parameter")
    }

    /// Prompt and answer do not fit the model.
    pub fn too_long(param: &str, message: String) -> ApiError {
        ApiError::invalid(param, message).code("context_length_exceeded")
    }

    /// No key, or one that is not known.
    pub fn unauthorized(message: &str) -> ApiError {
        ApiError::new(StatusCode::UNAUTHORIZED, message).code("invalid_api_key")
    }

    /// A model that is not served.
    pub fn no_such_model(name: &str) -> ApiError {
        let name: String = name.chars().take(200).collect();
        let message = format!("the model {name:?} does not exist here: see /v1/models");
        let error = ApiError { param: Some("model".into()), ..ApiError::new(StatusCode::NOT_FOUND, message) };
        error.code("model_not_found")
    }

    /// Another status with a message.
    pub fn status(status: StatusCode, message: impl Into<String>) -> ApiError {
        ApiError::new(status, message)
    }

    /// All places are taken.
    pub fn busy() -> ApiError {
        let message = "the server has as many requests as it takes: try again later";
        let error = ApiError { retry_after: Some(1), ..ApiError::new(StatusCode::TOO_MANY_REQUESTS, message) };
        error.code("overloaded")
    }

    /// The server takes no requests now.
    pub fn unavailable(message: impl Into<String>) -> ApiError {
        ApiError { retry_after: Some(2), ..ApiError::new(StatusCode::SERVICE_UNAVAILABLE, message) }.code("unavailable")
    }

    /// A fault of the server.
    pub fn internal(message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    }

    /// Adds a word for programs.
    pub fn code(mut self, code: &'static str) -> ApiError {
        self.code = Some(code);
        self
    }

    /// OpenAI's word for the kind.
    pub fn kind(&self) -> &'static str {
        match self.status.as_u16() {
            401 => "authentication_error",
            403 => "permission_error",
            404 => "not_found_error",
            429 => "rate_limit_error",
            500..=599 => "server_error",
            _ => "invalid_request_error",
        }
    }

    /// The JSON of an answer or of an error event.
    pub fn body(&self) -> Value {
        json!(ErrorBody {
            error: ErrorObject {
                message: self.message.clone(),
                r#type: self.kind(),
                param: self.param.clone(),
                code: self.code,
            }
        })
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body())).into_response();
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        // What failed for a reason of its own, or took too long, does so again.
        if [StatusCode::INTERNAL_SERVER_ERROR, StatusCode::GATEWAY_TIMEOUT].contains(&self.status) {
            headers.insert(HeaderName::from_static("x-should-retry"), HeaderValue::from_static("false"));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<EngineError> for ApiError {
    fn from(error: EngineError) -> ApiError {
        let message = error.to_string();
        match error {
            EngineError::Request(_) => ApiError::bad_request(message),
            EngineError::Grammar(_) => ApiError::invalid("response_format", message),
            EngineError::NothingAllowed { .. } => ApiError::bad_request(message).code("nothing_allowed"),
            EngineError::NotANumber { .. } => ApiError::internal(message).code("numerical_error"),
            EngineError::Stopped => ApiError::unavailable("the server is shutting down"),
            // Details of a broken device or of a panic are for the log.
            _ => ApiError::unavailable("the engine has failed").code("engine_dead"),
        }
    }
}

impl From<TextError> for ApiError {
    fn from(error: TextError) -> ApiError {
        let message = error.to_string();
        match error {
            TextError::TemplateRefused(_) | TextError::TemplateRender(_) | TextError::TemplateLimit(_) => {
                ApiError::invalid("messages", message)
            }
            TextError::ChatInput { field, .. } => ApiError::invalid(field, message),
            TextError::EmptyStop(_) => ApiError::invalid("stop", message),
            TextError::Encode { .. } => ApiError::bad_request(message),
            _ => ApiError::internal(message),
        }
    }
}
