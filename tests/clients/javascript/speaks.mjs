// The JavaScript clients, unmodified: each asks the same of the gateway, and one line of JSON says what came of it.
// A kind is the client and what it calls; tests/clients/test_javascript.py says what each must find.

import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import Anthropic from "@anthropic-ai/sdk";
import { generateText, Output, streamText, tool } from "ai";
import OpenAI from "openai";
import { zodResponseFormat, zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";

const { GATEWAY, MODEL } = process.env;
const KEYS = JSON.parse(process.env.KEYS);
const ASK = "[[tokens=12 delay=1ms]]";
const ONE_TOOL = "[[tools=1]]";
const BREAKS = "[[tokens=20 delay=1ms fault=reset at=5]]";
const USUAL = { key: KEYS.demo, model: MODEL, said: ASK, temperature: undefined };
const REFUSALS = {
  400: { temperature: 9 },
  401: { key: "gk_live_wrong" },
  403: { key: KEYS.stranger },
  404: { model: "gpt-99" },
  429: { key: KEYS.poor },
  "5xx": { said: "[[fail=500]]" },
};
const PARAMETERS = {
  type: "object",
  properties: { query: { type: "string" }, limit: { type: "integer" } },
};
const Shape = z.object({ a: z.number().int() });
const Found = z.object({ query: z.string(), limit: z.number().int() });

// What a call throws: its class, its name, and the status that it names.
async function thrown(call) {
  try {
    await call();
    return ["nothing"];
  } catch (error) {
    return [error.constructor.name, error.name, String(error.status ?? error.statusCode)];
  }
}

async function whole(stream) {
  const found = [];
  for await (const each of stream) found.push(each);
  return found;
}

const user = (content) => [{ role: "user", content }];

const kinds = {
  chat: {
    client: (key) => new OpenAI({ baseURL: `${GATEWAY}/v1`, apiKey: key, maxRetries: 0 }).chat.completions,
    body: ({ model, said, temperature }) => ({ model, messages: user(said), temperature }),
    async found(ours, body) {
      const plain = await ours.create(body(ASK));
      const stream = await whole(await ours.create({ ...body(ASK), stream: true }));
      const tools = [{ type: "function", function: { name: "look", parameters: PARAMETERS } }];
      const called = await ours.create({ ...body(ONE_TOOL), tools, tool_choice: "required" });
      const streamed = await ours.stream({ ...body(ONE_TOOL), tools }).finalChatCompletion();
      const shaped = await ours.parse({ ...body("?"), response_format: zodResponseFormat(Shape, "shape") });
      const input = (answer) => JSON.parse(answer.choices[0].message.tool_calls[0].function.arguments);
      return {
        plain: plain.choices[0].message.content,
        stream: stream.map((each) => each.choices[0].delta.content ?? "").join(""),
        output: plain.usage.completion_tokens,
        tools: [input(called), input(streamed)],
        structured: shaped.choices[0].message.parsed,
      };
    },
  },
  responses: {
    client: (key) => new OpenAI({ baseURL: `${GATEWAY}/v1`, apiKey: key, maxRetries: 0 }).responses,
    body: ({ model, said, temperature }) => ({ model, input: said, temperature }),
    // The client leaves it to the caller to look at how a stream of events ended.
    async broken(ours, body) {
      return (await whole(await ours.create({ ...body, stream: true }))).at(-1).type;
    },
    async found(ours, body) {
      const plain = await ours.create(body(ASK));
      const stream = await ours.stream(body(ASK)).finalResponse();
      const tools = [{ type: "function", name: "look", parameters: PARAMETERS, strict: false }];
      const called = await ours.create({ ...body(ONE_TOOL), tools, tool_choice: "required" });
      const streamed = await ours.stream({ ...body(ONE_TOOL), tools }).finalResponse();
      const shaped = await ours.parse({ ...body("?"), text: { format: zodTextFormat(Shape, "shape") } });
      return {
        plain: plain.output_text,
        stream: stream.output_text,
        output: plain.usage.output_tokens,
        tools: [called, streamed].map((answer) => JSON.parse(answer.output[0].arguments)),
        structured: shaped.output_parsed,
      };
    },
  },
  messages: {
    client: (key) => new Anthropic({ baseURL: GATEWAY, authToken: key, apiKey: null, maxRetries: 0 }).messages,
    body: ({ model, said, temperature }) => ({ model, messages: user(said), max_tokens: 200, temperature }),
    async found(ours, body) {
      const plain = await ours.create(body(ASK));
      const stream = await ours.stream(body(ASK)).finalText();
      const tools = [{ name: "look", input_schema: PARAMETERS }];
      const called = await ours.create({ ...body(ONE_TOOL), tools, tool_choice: { type: "any" } });
      const streamed = await ours.stream({ ...body(ONE_TOOL), tools }).finalMessage();
      const format = { type: "json_schema", schema: z.toJSONSchema(Shape) };
      const shaped = await ours.create({ ...body("?"), output_config: { format } });
      return {
        plain: plain.content[0].text,
        stream,
        output: plain.usage.output_tokens,
        tools: [called, streamed].map((answer) => answer.content[0].input),
        structured: JSON.parse(shaped.content[0].text),
      };
    },
  },
};

// Vercel's AI SDK, over each of the three.
const models = {
  "ai chat": (key, model) => createOpenAI({ baseURL: `${GATEWAY}/v1`, apiKey: key }).chat(model),
  "ai responses": (key, model) => createOpenAI({ baseURL: `${GATEWAY}/v1`, apiKey: key })(model),
  "ai messages": (key, model) => createAnthropic({ baseURL: `${GATEWAY}/v1`, apiKey: key })(model),
};

async function parts(asked) {
  const found = await whole(streamText({ maxRetries: 0, onError: () => {}, ...asked }).fullStream);
  const failed = found.find((each) => each.type === "error");
  if (failed) throw failed.error;
  return found;
}

async function foundByAi(name) {
  const make = models[name];
  // Anthropic's has temperatures up to 1 only, and leaves others out by itself: the answer's bound is what is wrong there.
  const asked = ({ key, model, said, temperature }) => ({
    model: make(key, model),
    prompt: said,
    maxRetries: 0,
    maxOutputTokens: temperature && name === "ai messages" ? 100_000_000 : 200,
    ...(temperature && name !== "ai messages" ? { temperature } : {}),
  });
  const usual = (said) => asked({ ...USUAL, said });
  const tools = { look: tool({ inputSchema: Found }) };
  const plain = await generateText(usual(ASK));
  const stream = await parts(usual(ASK));
  const called = await generateText({ ...usual(ONE_TOOL), tools, toolChoice: "required" });
  const streamed = await parts({ ...usual(ONE_TOOL), tools, toolChoice: "required" });
  const shaped = await generateText({ ...usual("?"), output: Output.object({ schema: Found }) });
  const refusals = {};
  for (const [status, wrong] of Object.entries(REFUSALS)) {
    refusals[status] = await thrown(() => generateText(asked({ ...USUAL, ...wrong })));
  }
  return {
    plain: plain.text,
    stream: stream.filter((each) => each.type === "text-delta").map((each) => each.text).join(""),
    output: plain.usage.outputTokens,
    tools: [called.toolCalls[0].input, streamed.find((each) => each.type === "tool-call").input],
    structured: Object.keys(shaped.output).sort(),
    refusals,
    breaks: await thrown(() => parts(usual(BREAKS))),
  };
}

async function foundBy(name) {
  const { client, body, found, broken } = kinds[name];
  const ours = client(KEYS.demo);
  const refusals = {};
  for (const [status, wrong] of Object.entries(REFUSALS)) {
    const call = { ...USUAL, ...wrong };
    refusals[status] = await thrown(() => client(call.key).create(body(call)));
  }
  const breaking = body({ ...USUAL, said: BREAKS });
  const breaks = broken
    ? [await broken(ours, breaking)]
    : await thrown(async () => whole(await ours.create({ ...breaking, stream: true })));
  return { ...(await found(ours, (said) => body({ ...USUAL, said }))), refusals, breaks };
}

const found = {};
for (const name of Object.keys(kinds)) found[name] = await foundBy(name);
for (const name of Object.keys(models)) found[name] = await foundByAi(name);
console.log(JSON.stringify(found));
