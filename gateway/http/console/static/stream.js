// Sends one chat request and reads its stream. Yields values, touches no page; what goes wrong is a Failure.

// A refusal or a broken stream, with all that the gateway said about it.
export class Failure extends Error {
  constructor({ status = 0, message, code = null, type = null, param = null, detail = {}, headers = new Headers() }) {
    super(message);
    this.status = status;
    this.code = code;
    this.type = type;
    this.param = param;
    this.detail = detail;
    this.headers = headers;
    this.requestId = headers.get("x-request-id") ?? detail.request_id ?? null;
    this.retryable = headers.get("x-should-retry") !== "false";
    const after = Number.parseInt(headers.get("retry-after") ?? "", 10);
    this.retryAfter = this.retryable && Number.isFinite(after) && after >= 0 ? after : null;
  }
}

// Cuts a byte stream into the payloads of its `data:` lines; comments and other fields are skipped.
export class EventSplitter {
  #decoder = new TextDecoder();
  #rest = "";
  #data = [];

  push(bytes) {
    this.#rest += this.#decoder.decode(bytes, { stream: true });
    const lines = this.#rest.split("\n");
    this.#rest = lines.pop();
    const events = [];
    for (const raw of lines) {
      const line = raw.endsWith("\r") ? raw.slice(0, -1) : raw;
      if (line === "") {
        if (this.#data.length > 0) events.push(this.#data.join("\n"));
        this.#data = [];
      } else if (line.startsWith("data:")) {
        this.#data.push(line.startsWith("data: ") ? line.slice(6) : line.slice(5));
      }
    }
    return events;
  }
}

export async function failureOf(response) {
  const text = await response.text().catch(() => "");
  let body = null;
  try {
    body = JSON.parse(text);
  } catch {
    // A proxy in between may answer with something else than JSON; the status still says enough.
  }
  const error = body?.error && typeof body.error === "object" ? body.error : {};
  const { message, code, type, param, ...detail } = error;
  return new Failure({
    status: response.status,
    message: typeof message === "string" && message !== "" ? message : `The gateway answered with status ${response.status}.`,
    code: code ?? null,
    type: type ?? null,
    param: param ?? null,
    detail,
    headers: response.headers,
  });
}

const unreachable = () => new Failure({ message: "The gateway cannot be reached.", code: "unreachable" });

// Ids of the endpoints that the key may query.
export async function readEndpoints(key, signal) {
  let response;
  try {
    response = await fetch("/v1/models", { headers: { authorization: `Bearer ${key}` }, signal, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw unreachable();
  }
  if (!response.ok) throw await failureOf(response);
  const list = await response.json();
  return list.data.map((model) => model.id);
}

// Yields {headers}, then {text}, {usage}, {model}, {finish}, {stopped} as they arrive.
// Throws a Failure for a refusal, an error frame, or a stream that ends without [DONE].
export async function* chat(request, key, signal) {
  let response;
  try {
    response = await fetch("/v1/chat/completions", {
      method: "POST",
      headers: { authorization: `Bearer ${key}`, "content-type": "application/json" },
      body: JSON.stringify({ ...request, stream: true, stream_options: { include_usage: true } }),
      signal,
      cache: "no-store",
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw unreachable();
  }
  if (!response.ok) throw await failureOf(response);
  yield { headers: response.headers };

  const broken = (message, code) => new Failure({ status: response.status, message, code, headers: response.headers });
  const reader = response.body.getReader();
  const splitter = new EventSplitter();
  try {
    for (;;) {
      let step;
      try {
        step = await reader.read();
      } catch (error) {
        if (error.name === "AbortError") throw error;
        throw broken("The connection broke before the answer was complete.", "connection_lost");
      }
      if (step.done) throw broken("The stream ended before the answer was complete.", "stream_cut");
      for (const payload of splitter.push(step.value)) {
        if (payload === "[DONE]") return;
        let frame;
        try {
          frame = JSON.parse(payload);
        } catch {
          throw broken("The stream held a frame that is not JSON.", "stream_garbled");
        }
        if (frame.error) {
          const { message, code, type, param, ...detail } = frame.error;
          throw new Failure({ status: response.status, message: message ?? "The answer failed.", code, type, param, detail,
            headers: response.headers });
        }
        yield* partsOf(frame);
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function* partsOf(frame) {
  if (frame.model) yield { model: frame.model };
  const choice = frame.choices?.[0];
  if (choice?.delta?.content) yield { text: choice.delta.content };
  if (choice?.finish_reason) yield { finish: choice.finish_reason };
  const stopped = frame.weighbridge ?? choice?.weighbridge;
  if (stopped?.stopped_by) yield { stopped };
  if (frame.usage) yield { usage: frame.usage };
}
