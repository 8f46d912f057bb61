// openai-node, unmodified: chat, streams, usage, tools, parse, errors, abort.
import assert from "node:assert/strict";
import OpenAI from "openai";
import { zodFunction, zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";

const url = process.env.PLANISH_URL ?? "http://127.0.0.1:23333";
const model = process.env.PLANISH_MODEL ?? "smol";
const apiKey = process.env.PLANISH_KEY ?? "none";
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey, maxRetries: 0 });
const messages = [{ role: "user", content: "What is the capital of France?" }];
const ask = (more) => client.chat.completions.create({ model, messages, max_tokens: 16, temperature: 0, ...more });
const Answer = z.object({ mood: z.enum(["good", "bad"]), sure: z.boolean() });

const checks = {
  async "chat and usage"() {
    const answer = await ask({});
    assert.ok(answer.choices[0].message.content.length > 0);
    assert.equal(answer.usage.total_tokens, answer.usage.prompt_tokens + answer.usage.completion_tokens);
  },
  async "a stream says the same"() {
    const whole = await ask({});
    let [text, usage] = ["", null];
    for await (const chunk of await ask({ stream: true, stream_options: { include_usage: true } })) {
      text += chunk.choices[0]?.delta?.content ?? "";
      usage = chunk.usage ?? usage;
    }
    assert.equal(text, whole.choices[0].message.content);
    assert.deepEqual(usage, whole.usage);
  },
  async "the stream helper"() {
    const stream = client.chat.completions.stream({ model, messages, max_tokens: 8 });
    let text = "";
    stream.on("content", (delta) => (text += delta));
    assert.equal(await stream.finalContent(), text);
  },
  async "tools, streamed"() {
    const tool = zodFunction({ name: "answer", parameters: Answer });
    const forced = { tools: [tool], tool_choice: "required", parallel_tool_calls: false, max_tokens: 100, temperature: 0 };
    const whole = await ask(forced);
    assert.equal(whole.choices[0].finish_reason, "tool_calls");
    Answer.parse(JSON.parse(whole.choices[0].message.tool_calls[0].function.arguments));
    const stream = client.chat.completions.stream({ model, messages, ...forced });
    const call = (await stream.finalChatCompletion()).choices[0].message.tool_calls[0];
    assert.equal(call.function.name, "answer");
    Answer.parse(JSON.parse(call.function.arguments));
  },
  async "runTools calls, and goes on with the result"() {
    let called = 0;
    const run = () => ((called += 1), "fine");
    const tool = { type: "function", function: { name: "mood", parameters: { type: "object", properties: {}, additionalProperties: false }, parse: JSON.parse, function: run } };
    const named = { type: "function", function: { name: "mood" } };
    const runner = client.chat.completions.runTools({ model, messages, tools: [tool], tool_choice: named, temperature: 0, max_tokens: 64 });
    await runner.done();
    assert.equal(called, 1);
    const [call, result] = runner.messages.slice(-2);
    assert.equal(call.tool_calls[0].function.name, "mood");
    assert.equal(result.content, "fine");
    const answer = await ask({ messages: runner.messages });
    assert.ok(answer.choices[0].message.content.length > 0);
  },
  async "parse"() {
    const format = zodResponseFormat(Answer, "answer");
    const answer = await client.chat.completions.parse({ model, messages, response_format: format, max_tokens: 60, temperature: 0 });
    assert.equal(typeof answer.choices[0].message.parsed.sure, "boolean");
  },
  async "responses, streamed"() {
    const answer = await client.responses.create({ model, input: "Hi", max_output_tokens: 8, temperature: 0 });
    let text = "";
    for await (const event of await client.responses.create({ model, input: "Hi", max_output_tokens: 8, temperature: 0, stream: true }))
      if (event.type === "response.output_text.delta") text += event.delta;
    assert.equal(text, answer.output_text);
  },
  async "errors"() {
    await assert.rejects(ask({ model: "nothing" }), (e) => e instanceof OpenAI.NotFoundError && e.code === "model_not_found");
    await assert.rejects(ask({ temperature: 9 }), (e) => e instanceof OpenAI.BadRequestError && e.param === "temperature");
    await assert.rejects(client.embeddings.create({ model, input: "x" }), OpenAI.BadRequestError);
  },
  async "abort frees the pages"() {
    const stream = await ask({ stream: true, max_tokens: 1500, ignore_eos: true });
    for await (const _ of stream) break;
    const controller = new AbortController();
    const aborted = client.chat.completions.create({ model, messages, max_tokens: 1500, ignore_eos: true }, { signal: controller.signal });
    setTimeout(() => controller.abort(), 100);
    await assert.rejects(aborted, OpenAI.APIUserAbortError);
    for (let i = 0; i < 2400; i++) {
      const page = await (await fetch(`${url}/metrics`, { headers: { authorization: `Bearer ${apiKey}` } })).text();
      if (/^planish_http_requests_inside 0$/m.test(page)) return;
      await new Promise((done) => setTimeout(done, 50));
    }
    assert.fail("the requests go on");
  },
};

let [passed, failed] = [0, 0];
for (const [name, check] of Object.entries(checks)) {
  try {
    await check();
    passed += 1;
    console.log(`ok   ${name}`);
  } catch (error) {
    failed += 1;
    console.log(`FAIL ${name}\n${error.stack}`);
  }
}
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed || !passed ? 1 : 0);
