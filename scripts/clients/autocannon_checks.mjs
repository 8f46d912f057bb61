// autocannon with 1,000 connections: probes all answered, generations answered or turned away with 429, nothing else.
import assert from "node:assert/strict";
import autocannon from "autocannon";

const url = process.env.PLANISH_URL ?? "http://127.0.0.1:23333";
const model = process.env.PLANISH_MODEL ?? "smol";
const way = { connections: 1000, duration: 8, timeout: 60 };

const probes = await autocannon({ ...way, url: `${url}/v1/models` });
console.log(`/v1/models: ${probes["2xx"]} answers, ${probes.non2xx} others, ${probes.errors} errors, p99 ${probes.latency.p99} ms`);
assert.ok(probes["2xx"] > 1000 && probes.non2xx === 0 && probes.errors === 0 && probes.timeouts === 0);

const body = JSON.stringify({ model, messages: [{ role: "user", content: "Hi" }], max_tokens: 2 });
const headers = { "content-type": "application/json" };
// A model has to share a busy machine with a thousand callers: it gets time for its first answers.
let answers = 0;
for (let round = 0; round < 20 && answers === 0; round++) {
  const chats = await autocannon({ ...way, url: `${url}/v1/chat/completions`, method: "POST", headers, body });
  console.log(`/v1/chat/completions: ${JSON.stringify(chats.statusCodeStats)}, ${chats.errors} errors, p99 ${chats.latency.p99} ms`);
  const statuses = Object.keys(chats.statusCodeStats);
  assert.ok(statuses.every((status) => ["200", "429"].includes(status)) && chats.errors === 0 && chats.timeouts === 0);
  answers += chats["2xx"];
}
assert.ok(answers > 0, "no answer");
// They are all gone, and so is their work: whoever comes now is served.
const after = await fetch(`${url}/v1/chat/completions`, { method: "POST", headers, body });
assert.ok([200, 429].includes(after.status), `${after.status}`);
for (let i = 0; !/^planish_http_requests_inside 0$/m.test(await (await fetch(`${url}/metrics`)).text()); i++) {
  assert.ok(i < 2400, "requests go on");
  await new Promise((done) => setTimeout(done, 50));
}
assert.equal((await fetch(`${url}/v1/chat/completions`, { method: "POST", headers, body })).status, 200);
