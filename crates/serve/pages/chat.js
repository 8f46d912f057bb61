// The chat page: plain requests to the server that it came from.
"use strict";
const $ = (id) => document.getElementById(id);
const KEPT = ["system", "temperature", "top_p", "top_k", "repetition_penalty", "max_tokens", "seed"];
const HINT = "Enter sends, Shift+Enter breaks the line";
let messages = [];
let running = null;

function headers() {
  const key = $("key").value.trim();
  return { "content-type": "application/json", ...(key ? { authorization: `Bearer ${key}` } : {}) };
}

function make(name, className, text = "") {
  const element = document.createElement(name);
  element.className = className;
  element.textContent = text;
  return element;
}

// Follows the answer, unless its reader has scrolled away from the end.
function following(change) {
  const log = $("log");
  const near = log.scrollHeight - log.scrollTop - log.clientHeight < 80;
  change();
  if (near) log.scrollTop = log.scrollHeight;
}

function show(element) {
  $("welcome").hidden = true;
  $("log").append(element);
  $("log").scrollTop = $("log").scrollHeight;
  return element;
}

function number(id) {
  const value = $(id).value.trim();
  return value === "" ? undefined : Number(value);
}

function request() {
  const system = $("system").value.trim();
  const fields = Object.fromEntries(KEPT.slice(1).map((id) => [id, number(id)]));
  return {
    model: $("model").value || undefined,
    messages: system ? [{ role: "system", content: system }, ...messages] : messages,
    stream: true,
    stream_options: { include_usage: true },
    ...fields,
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

// A turn of the model: what it thinks, what it says, what one can do with it; its end says whether there is anything to see.
function answerTurn() {
  const turn = show(make("div", "turn assistant running"));
  const before = messages.length;
  const body = make("div", "body");
  turn.append(body);
  let [thought, said] = ["", ""];
  let [shown, due] = [null, 0];
  const paint = () => {
    due = 0;
    if (thought && !shown) {
      shown = make("details", "thought");
      shown.open = true;
      shown.append(make("summary", "", "Thoughts"), make("div", ""));
      turn.prepend(shown);
    }
    if (shown) shown.lastChild.textContent = thought;
    markdown(said, body);
  };
  // Once for each picture of the screen: tokens may come faster, and painting a long answer for each would leave the page
  // no time for a click on Stop.
  const soon = () => (due ||= requestAnimationFrame(() => following(paint)));
  return {
    think(text) {
      thought += text;
      soon();
    },
    say(text) {
      said += text;
      soon();
    },
    end(note) {
      turn.classList.remove("running");
      cancelAnimationFrame(due);
      following(paint);
      if (!said && !thought) {
        turn.remove();
        return false;
      }
      const foot = make("div", "foot");
      const copy = make("button", "", "Copy");
      copy.addEventListener("click", () => navigator.clipboard.writeText(said).then(() => (copy.textContent = "Copied")));
      const again = make("button", "again", "Try again");
      again.addEventListener("click", () => retry(turn, before));
      foot.append(copy, again, make("span", "", note));
      turn.append(foot);
      return true;
    },
    get text() { return said; },
  };
}

function busy(is) {
  $("send").hidden = is;
  $("stop").hidden = !is;
  document.querySelectorAll(".again").forEach((button) => (button.hidden = is));
}

async function answer() {
  const mine = (running = new AbortController());
  busy(true);
  $("status").textContent = "…";
  const turn = answerTurn();
  const begun = performance.now();
  let [first, usage, note, wrong] = [0, null, "", null];
  try {
    const body = JSON.stringify(request());
    const response = await fetch("/v1/chat/completions", { method: "POST", headers: headers(), body, signal: mine.signal });
    if (!response.ok) throw new Error(await failure(response));
    for await (const event of events(response)) {
      const delta = event.choices[0]?.delta ?? {};
      if (delta.reasoning_content) turn.think(delta.reasoning_content);
      if (delta.content) turn.say(delta.content);
      if (delta.reasoning_content || delta.content) first ||= performance.now();
      usage = event.usage ?? usage;
    }
    const seconds = (performance.now() - (first || begun)) / 1000;
    // The first token is there when the clock starts.
    const rate = usage.completion_tokens > 1 && seconds > 0 ? `, ${((usage.completion_tokens - 1) / seconds).toFixed(1)} tokens/s` : "";
    note = `${usage.completion_tokens} tokens${rate}`;
  } catch (error) {
    if (error.name === "AbortError") note = "stopped";
    else wrong = error.message;
  }
  if (running !== mine) return;
  let stays = false;
  following(() => (stays = turn.end(note)));
  if (turn.text) messages.push({ role: "assistant", content: turn.text });
  // A question without any answer is no part of what was said.
  else if (!stays) messages.pop();
  if (wrong) show(make("div", "error", wrong));
  running = null;
  busy(false);
  $("status").textContent = HINT;
  $("text").focus();
}

function ask(text) {
  messages.push({ role: "user", content: text });
  show(make("div", "turn user")).append(make("div", "body", text));
  answer();
}

// Forgets an answer and all that came after it, and asks for another.
function retry(turn, before) {
  if (running) return;
  while (turn.nextSibling) turn.nextSibling.remove();
  turn.remove();
  messages = messages.slice(0, before);
  answer();
}

async function models() {
  const chosen = $("model").value;
  const response = await fetch("/v1/models", { headers: headers() });
  if (response.status === 401) {
    open(true);
    $("status").textContent = "this server needs an API key: see Settings";
    return;
  }
  if (!response.ok) throw new Error(await failure(response));
  const options = (await response.json()).data.map(({ id }) => new Option(id, id));
  $("model").replaceChildren(...options);
  if (chosen) $("model").value = chosen;
  $("status").textContent = HINT;
}

function open(is) {
  $("settings").hidden = !is;
  $("toggle").setAttribute("aria-expanded", String(is));
}

// Settings outlive the page, but never the key.
function keep() {
  for (const output of document.querySelectorAll("output")) output.textContent = $(output.htmlFor.value).value;
  localStorage.setItem("planish", JSON.stringify(Object.fromEntries(KEPT.map((id) => [id, $(id).value]))));
}

function recall() {
  const kept = JSON.parse(localStorage.getItem("planish") ?? "{}");
  KEPT.filter((id) => id in kept).forEach((id) => ($(id).value = kept[id]));
  dress(localStorage.getItem("planish-theme") ?? "auto");
  keep();
}

function dress(theme) {
  document.documentElement.dataset.theme = theme;
  $("theme").textContent = `Colours: ${theme}`;
  localStorage.setItem("planish-theme", theme);
}

function grow() {
  $("text").style.height = "auto";
  $("text").style.height = `${$("text").scrollHeight}px`;
}

$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("text").value.trim();
  if (!text || running) return;
  $("text").value = "";
  grow();
  ask(text);
});
$("text").addEventListener("input", grow);
$("text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    $("ask").requestSubmit();
  }
});
document.addEventListener("keydown", (event) => event.key === "Escape" && running?.abort());
$("stop").addEventListener("click", () => running?.abort());
$("clear").addEventListener("click", () => {
  running?.abort();
  running = null;
  messages = [];
  document.querySelectorAll("#log > :not(#welcome)").forEach((element) => element.remove());
  $("welcome").hidden = false;
  busy(false);
  $("status").textContent = HINT;
  $("text").focus();
});
$("ideas").addEventListener("click", (event) => event.target.matches("button") && !running && ask(event.target.textContent));
$("toggle").addEventListener("click", () => open($("settings").hidden));
$("theme").addEventListener("click", () => {
  const themes = ["auto", "light", "dark"];
  dress(themes[(themes.indexOf(document.documentElement.dataset.theme) + 1) % 3]);
});
$("settings").addEventListener("submit", (event) => event.preventDefault());
$("settings").addEventListener("input", keep);
$("restore").addEventListener("click", () => {
  const key = $("key").value;
  $("settings").reset();
  $("key").value = key;
  keep();
});
$("key").addEventListener("change", () => models().catch((error) => show(make("div", "error", error.message))));
recall();
models().catch((error) => show(make("div", "error", error.message)));
