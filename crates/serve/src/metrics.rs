//! `/metrics` in Prometheus' text format: own names, and those of vLLM, so that its dashboards and autoscalers fit. No
//! label comes from a caller.
use crate::counts::Buckets;
use crate::error::ErrorBody;
use crate::lag::Lag;
use crate::state::State;
use axum::extract::State as Shared;
use axum::http::header;
use axum::response::IntoResponse;
use planish_engine::metrics::Histogram;
use planish_engine::{EngineConfig, Snapshot};
use std::fmt::Write;
use std::sync::Arc;

/// What is counted.
#[utoipa::path(get, path = "/metrics", tag = "Operation", responses(
    (status = 200, description = "Prometheus' text format", body = String, content_type = "text/plain"),
    (status = "4XX", description = "No key", body = ErrorBody)
))]
pub async fn metrics(Shared(state): Shared<Arc<State>>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], page(&state))
}

/// One model's numbers.
struct Source {
    labels: String,
    now: Snapshot,
    config: EngineConfig,
}

fn page(state: &State) -> String {
    let source = |model: &Arc<crate::model::Model>| Source {
        labels: format!("model_name=\"{}\",engine=\"0\"", escape(model.name())),
        now: model.served.handle.metrics(),
        config: model.served.handle.info().config,
    };
    let sources: Vec<Source> = state.models().iter().map(source).collect();
    let mut page = Page { text: String::new(), sources: &sources };
    engine(&mut page);
    aliases(&mut page);
    server(&mut page.text, state);
    page.text
}

struct Page<'a> {
    text: String,
    sources: &'a [Source],
}

impl Page<'_> {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn each(&mut self, name: &str, kind: &str, help: &str, value: impl Fn(&Source) -> f64) {
        self.head(name, kind, help);
        for source in self.sources {
            let _ = writeln!(self.text, "{name}{{{}}} {}", source.labels, value(source));
        }
    }

    fn counter(&mut self, name: &str, help: &str, value: impl Fn(&Snapshot) -> u64) {
        self.each(name, "counter", help, |source| value(&source.now) as f64);
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl Fn(&Source) -> f64) {
        self.each(name, "gauge", help, value);
    }

    fn histogram(&mut self, name: &str, help: &str, of: impl Fn(&Snapshot) -> &Histogram) {
        self.head(name, "histogram", help);
        for source in self.sources {
            let values = of(&source.now);
            histogram(&mut self.text, name, &source.labels, values.buckets(), (values.count(), values.sum()));
        }
    }

    fn finished(&mut self, name: &str, label: &str) {
        self.head(name, "counter", "Requests that came to an end, by the reason");
        for source in self.sources {
            let now = &source.now;
            let ends = [
                ("stop", now.finished_stop),
                ("length", now.finished_length),
                ("abort", now.cancelled),
                ("error", now.failed),
            ];
            for (reason, count) in ends {
                let _ = writeln!(self.text, "{name}{{{},{label}=\"{reason}\"}} {count}", source.labels);
            }
        }
    }
}

fn engine(page: &mut Page<'_>) {
    page.counter("planish_requests_accepted_total", "Requests that the engine took in", |m| m.accepted);
    page.counter("planish_requests_refused_total", "Requests that the engine refused", |m| m.refused);
    page.finished("planish_requests_finished_total", "reason");
    page.gauge("planish_requests_running", "Requests that run", |s| s.now.running as f64);
    page.gauge("planish_requests_waiting", "Requests that wait", |s| s.now.queued as f64);
    page.counter("planish_prompt_tokens_total", "Tokens of prompts", |m| m.prompt_tokens);
    page.counter("planish_generated_tokens_total", "Tokens of answers", |m| m.generated_tokens);
    page.counter("planish_steps_total", "Steps of the engine", |m| m.steps);
    page.each("planish_forward_seconds_total", "counter", "Seconds in the forward pass", |s| s.now.forward_seconds);
    page.each("planish_other_seconds_total", "counter", "Seconds of steps outside of it", |s| s.now.other_seconds);
    page.gauge("planish_pages_total", "Pages of the KV cache", |s| s.now.pages_total as f64);
    page.gauge("planish_pages_free", "Pages that hold nothing", |s| s.now.pages_free as f64);
    page.gauge("planish_pages_cached", "Pages kept for later prompts", |s| s.now.pages_cached as f64);
    page.counter("planish_preemptions_total", "Sequences that gave their pages back", |m| m.preemptions);
    page.counter("planish_drafts_proposed_total", "Tokens guessed", |m| m.drafts_proposed);
    page.counter("planish_drafts_accepted_total", "Guesses that held", |m| m.drafts_accepted);
}

fn aliases(page: &mut Page<'_>) {
    page.gauge("vllm:num_requests_running", "Requests that run", |s| s.now.running as f64);
    page.gauge("vllm:num_requests_waiting", "Requests that wait", |s| s.now.queued as f64);
    page.gauge("vllm:kv_cache_usage_perc", "Part of the KV cache that is in use, 0 to 1", used);
    page.counter("vllm:prefix_cache_queries_total", "Tokens looked up in the prefix cache", |m| m.prefix_queries);
    page.counter("vllm:prefix_cache_hits_total", "Tokens found there", |m| m.prefix_hits);
    page.counter("vllm:num_preemptions_total", "Sequences that gave their pages back", |m| m.preemptions);
    page.counter("vllm:prompt_tokens_total", "Tokens of prompts", |m| m.prompt_tokens);
    page.counter("vllm:generation_tokens_total", "Tokens of answers", |m| m.generated_tokens);
    page.finished("vllm:request_success_total", "finished_reason");
    page.counter("vllm:corrupted_requests_total", "Requests that ended with an error", |m| m.failed);
    page.histogram("vllm:iteration_tokens_total", "Tokens of a step", |m| &m.step_tokens);
    page.histogram("vllm:time_to_first_token_seconds", "Arrival to first token", |m| &m.time_to_first_token);
    page.histogram("vllm:time_per_output_token_seconds", "Between two tokens", |m| &m.inter_token);
    page.histogram("vllm:inter_token_latency_seconds", "Between two tokens", |m| &m.inter_token);
    page.histogram("vllm:e2e_request_latency_seconds", "Arrival to the end", |m| &m.request_latency);
    page.histogram("vllm:request_queue_time_seconds", "Arrival to the first step", |m| &m.queue_time);
    page.histogram("vllm:request_inference_time_seconds", "First step to the end", |m| &m.inference_time);
    page.histogram("vllm:request_prefill_time_seconds", "First step to first token", |m| &m.prefill_time);
    page.histogram("vllm:request_decode_time_seconds", "First token to the end", |m| &m.decode_time);
    page.head("vllm:cache_config_info", "gauge", "Sizes of the KV cache");
    for source in page.sources {
        let c = source.config;
        let sizes =
            format!("block_size=\"{}\",num_gpu_blocks=\"{}\",cache_dtype=\"{}\"", c.page_size, c.pages, c.kv_dtype);
        let _ = writeln!(page.text, "vllm:cache_config_info{{{},{sizes}}} 1", source.labels);
    }
}

/// Pages of running requests; those kept for later are there to be taken.
fn used(source: &Source) -> f64 {
    let now = &source.now;
    let free = now.pages_free + now.pages_cached;
    now.pages_total.saturating_sub(free) as f64 / (now.pages_total.max(1)) as f64
}

fn server(text: &mut String, state: &State) {
    let (inside, turned_away) = state.counts.places();
    let mut one = |name: &str, kind: &str, help: &str, value: u64| {
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
    };
    one("planish_http_requests_inside", "gauge", "Requests in a place of the server", inside);
    one("planish_http_places", "gauge", "Places of the server", state.options.max_requests as u64);
    one("planish_http_turned_away_total", "counter", "Requests that found no place", turned_away);
    one("vllm:admission_rejections_total", "counter", "Requests that found no place", turned_away);
    let name = "planish_http_answers_total";
    let _ = writeln!(text, "# HELP {name} Answers by class of status\n# TYPE {name} counter");
    for (class, count) in state.counts.answers() {
        let _ = writeln!(text, "{name}{{status=\"{class}xx\"}} {count}");
    }
    let params = state.counts.params();
    let mut sizes = |name: &str, help: &str, buckets: &Buckets| {
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} histogram");
        histogram(text, name, "engine=\"0\"", buckets.cumulative(), buckets.total());
    };
    sizes("vllm:request_prompt_tokens", "Tokens of a prompt", &params.prompt);
    sizes("vllm:request_params_max_tokens", "Most tokens of an answer", &params.max_tokens);
    sizes("vllm:request_params_n", "Answers to a prompt", &params.n);
    sizes("vllm:request_generation_tokens", "Tokens of an answer", &params.generated);
    sizes("vllm:request_max_num_generation_tokens", "Tokens of the longest answer to a prompt", &params.longest);
    lag(text, &state.counts.lag);
}

/// Without labels: it is of the server, whatever the model.
fn lag(text: &mut String, lag: &Lag) {
    let name = "planish_http_lag_seconds";
    let help = "From the engine's event to its part of an answer, ready for the connection";
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} histogram");
    let (buckets, sum) = lag.read();
    let mut count = 0;
    for (bound, up_to) in buckets {
        let bound = if bound.is_finite() { bound.to_string() } else { "+Inf".into() };
        let _ = writeln!(text, "{name}_bucket{{le=\"{bound}\"}} {up_to}");
        count = up_to;
    }
    let _ = writeln!(text, "{name}_sum {sum}\n{name}_count {count}");
}

fn histogram(
    text: &mut String,
    name: &str,
    labels: &str,
    buckets: impl Iterator<Item = (f64, u64)>,
    (count, sum): (u64, f64),
) {
    for (bound, up_to) in buckets {
        let _ = writeln!(text, "{name}_bucket{{{labels},le=\"{bound:?}\"}} {up_to}");
    }
    let _ = writeln!(text, "{name}_bucket{{{labels},le=\"+Inf\"}} {count}");
    let _ = writeln!(text, "{name}_sum{{{labels}}} {sum}\n{name}_count{{{labels}}} {count}");
}

/// A label's value.
fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
