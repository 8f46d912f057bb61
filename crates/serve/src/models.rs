//! `/v1/models`, and what this server does not do.
use crate::error::{ApiError, ErrorBody, Result};
use crate::model::Model;
use crate::state::{Phase, State};
use crate::wire::lists::{ModelCard, ModelList};
use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State as Shared};
use std::sync::Arc;

/// What is served.
#[utoipa::path(get, path = "/v1/models", tag = "OpenAI", responses(
    (status = 200, description = "The models", body = ModelList),
    (status = "4XX", description = "No key", body = ErrorBody),
    (status = 503, description = "Loading", body = ErrorBody)
))]
pub async fn list(Shared(state): Shared<Arc<State>>) -> Result<Json<ModelList>> {
    if state.phase() == Phase::Loading {
        return Err(ApiError::unavailable("the model is being loaded"));
    }
    Ok(Json(ModelList { object: "list", data: state.models().iter().map(|model| card(model)).collect() }))
}

/// One model.
#[utoipa::path(get, path = "/v1/models/{model}", tag = "OpenAI",
    params(("model" = String, Path, description = "Its name")),
    responses(
        (status = 200, description = "The model", body = ModelCard),
        (status = "4XX", description = "No such model", body = ErrorBody),
        (status = 503, description = "Loading", body = ErrorBody)
    )
)]
pub async fn one(
    Shared(state): Shared<Arc<State>>,
    name: Result<Path<String>, PathRejection>,
) -> Result<Json<ModelCard>> {
    let unreadable = |_| ApiError::invalid("model", "model: expected a name in UTF-8");
    let Path(name) = name.map_err(unreadable)?;
    Ok(Json(card(&*state.model(Some(&name))?)))
}

fn card(model: &Model) -> ModelCard {
    ModelCard {
        id: model.name().into(),
        object: "model",
        created: model.created,
        owned_by: "planish",
        root: model.name().into(),
        parent: None,
        max_model_len: model.context(),
    }
}

/// There are no embeddings here.
#[utoipa::path(post, path = "/v1/embeddings", tag = "OpenAI", responses(
    (status = "4XX", description = "The models that are served generate text", body = ErrorBody)
))]
pub async fn embeddings(request: Request) -> ApiError {
    crate::intake::drain(request.into_body()).await;
    let message = "the models served here generate text: they have no embeddings";
    ApiError::bad_request(message).code("unsupported_endpoint")
}
