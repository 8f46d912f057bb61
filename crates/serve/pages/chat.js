// The chat page: plain requests to the server that it came from. Text is only ever set as text, never as HTML.
"use strict";
const $ = (id) => document.getElementById(id);
let messages = [];
let running = null;

function headers() {
  const key = $("key").value.trim();
  return { "content-type": "application/json", ...(key ? { authorization: `Bearer ${key}` } : {}) };
}

function show(kind, text) {
  const block = document.createElement("div");
  block.className = `message ${kind}`;
  block.textContent = text;
  $("log").append(block);
  $("log").scrollTop = $("log").scrollHeight;
  return block;
}

function number(id) {
  const value = $(id).value.trim();
  return value === "" ? undefined : Number(value);
}

function request() {
  const system = $("system").value.trim();
  const said = system ? [{ role: "system", content: system }, ...messages] : messages;
  return {
    model: $("model").value || undefined,
    messages: said,
    stream: true,
    stream_options: { include_usage: true },
    temperature: number("temperature"),
    top_p: number("top_p"),
    top_k: number("top_k"),
    max_tokens: number("max_tokens"),
    seed: number("seed"),
  };
}

async function failure(response) {
  try {
    return (await response.json()).error.message;
  } catch {
    return `the server answered ${response.status}`;
  }
}

async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) throw new Error("the answer broke off");
    rest += value;
    const parts = rest.split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      if (!part.startsWith("data: ")) continue;
      if (part === "data: [DONE]") return;
      const event = JSON.parse(part.slice(6));
      if (event.error) throw new Error(event.error.message);
      yield event;
    }
  }
}

async function ask(text) {
  messages.push({ role: "user", content: text });
  show("user", text);
  running = new AbortController();
  $("send").hidden = true;
  $("stop").hidden = false;
  $("status").textContent = "…";
  const begun = performance.now();
  let first = 0;
  let answer = "";
  let block = null;
  let thought = null;
  try {
    const body = JSON.stringify(request());
    const response = await fetch("/v1/chat/completions", { method: "POST", headers: headers(), body, signal: running.signal });
    if (!response.ok) throw new Error(await failure(response));
    for await (const event of events(response)) {
      const delta = event.choices[0]?.delta ?? {};
      if (delta.reasoning_content) {
        thought ??= show("thought", "");
        thought.textContent += delta.reasoning_content;
      }
      if (delta.content) {
        first ||= performance.now();
        block ??= show("assistant", "");
        answer += delta.content;
        block.textContent = answer;
      }
      $("log").scrollTop = $("log").scrollHeight;
      if (event.usage) {
        const seconds = (performance.now() - (first || begun)) / 1000;
        const rate = seconds > 0 ? (event.usage.completion_tokens / seconds).toFixed(1) : "–";
        $("status").textContent = `${event.usage.completion_tokens} tokens, ${rate} tokens/s`;
      }
    }
  } catch (error) {
    if (error.name === "AbortError") $("status").textContent = "stopped";
    else {
      $("status").textContent = "";
      show("error", error.message);
    }
  }
  if (answer) messages.push({ role: "assistant", content: answer });
  running = null;
  $("send").hidden = false;
  $("stop").hidden = true;
  $("text").focus();
}

async function models() {
  const chosen = $("model").value;
  const response = await fetch("/v1/models", { headers: headers() });
  if (response.status === 401) {
    $("settings").hidden = false;
    $("status").textContent = "this server needs an API key: see Settings";
    return;
  }
  if (!response.ok) throw new Error(await failure(response));
  const options = (await response.json()).data.map(({ id }) => new Option(id, id));
  $("model").replaceChildren(...options);
  if (chosen) $("model").value = chosen;
  $("status").textContent = "";
}

$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("text").value.trim();
  if (!text || running) return;
  $("text").value = "";
  ask(text);
});
$("text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    $("ask").requestSubmit();
  }
});
$("stop").addEventListener("click", () => running?.abort());
$("clear").addEventListener("click", () => {
  running?.abort();
  messages = [];
  $("log").replaceChildren();
  $("status").textContent = "";
});
$("toggle").addEventListener("click", () => {
  $("settings").hidden = !$("settings").hidden;
  $("toggle").setAttribute("aria-expanded", String(!$("settings").hidden));
});
$("settings").addEventListener("submit", (event) => event.preventDefault());
$("key").addEventListener("change", () => models().catch((error) => show("error", error.message)));
models().catch((error) => show("error", error.message));
