// Shows one answer: its text, what it weighed, how fast it came, and what went wrong. Sends nothing itself.

import { show } from "./markdown.js";

const number = new Intl.NumberFormat("en");

export function element(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

export function button(label, className, onClick) {
  const node = element("button", className, label);
  node.type = "button";
  node.addEventListener("click", onClick);
  return node;
}

const milliseconds = (ms) => (ms < 10 ? `${ms.toFixed(1)} ms` : ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(2)} s`);

// A fact of an error body, as people read it.
function readable([name, value]) {
  if (name.endsWith("_at_ms") && typeof value === "number") {
    return [name.slice(0, -6).replaceAll("_", " "), new Date(value).toLocaleString()];
  }
  const text = typeof value === "number" ? number.format(value) : typeof value === "object" ? JSON.stringify(value) : String(value);
  return [name.replaceAll("_", " "), text];
}

// Tokens in `input=24, output=256`, prompt and answer together; 0 where the header is missing.
function reservedTokens(header) {
  return [...(header ?? "").matchAll(/\b(?:input|output)=(\d+)/g)].reduce((sum, [, tokens]) => sum + Number(tokens), 0);
}

export class Answer {
  constructor() {
    this.root = element("article", "turn answer");
    this.root.setAttribute("aria-label", "Answer");
    this.root.setAttribute("aria-busy", "true");
    this.body = element("div", "answer-body");
    this.note = element("p", "answer-note");
    this.failure = element("div", "failure");
    this.weight = element("div", "weight");
    this.facts = element("dl", "facts");
    this.note.hidden = this.failure.hidden = this.weight.hidden = this.facts.hidden = true;
    this.root.append(this.body, this.note, this.failure, this.weight, this.facts);
    this.text = "";
    this.restart();
  }

  // Forgets a failed attempt; the same place shows the next one.
  restart() {
    this.text = "";
    this.frames = 0;
    this.usage = null;
    this.model = null;
    this.finish = null;
    this.stopped = null;
    this.headers = null;
    this.firstAt = null;
    this.lastAt = null;
    this.sentAt = performance.now();
    this.failure.hidden = this.note.hidden = this.weight.hidden = this.facts.hidden = true;
    this.root.classList.add("waiting");
    this.root.setAttribute("aria-busy", "true");
    show(this.body, "");
  }

  take(part) {
    if (part.headers) this.headers = part.headers;
    if (part.model) this.model = part.model;
    if (part.finish) this.finish = part.finish;
    if (part.stopped) this.stopped = part.stopped;
    if (part.usage) this.usage = part.usage;
    if (part.text) {
      this.lastAt = performance.now();
      this.firstAt ??= this.lastAt;
      this.frames += 1;
      this.text += part.text;
      this.root.classList.remove("waiting");
      this.#drawSoon();
    }
  }

  #drawSoon() {
    if (this.drawing) return;
    this.drawing = true;
    requestAnimationFrame(() => {
      this.drawing = false;
      this.#drawBody();
      this.onDraw?.();
    });
  }

  #drawBody() {
    // Many tokenizers begin an answer with a space.
    show(this.body, this.text.trimStart());
  }

  // `ending` is "complete", "stopped" (by the reader) or "failed".
  end(ending) {
    this.root.classList.remove("waiting");
    this.root.setAttribute("aria-busy", "false");
    this.#drawBody();
    this.#drawNote(ending);
    this.#drawWeight();
    this.#drawFacts(ending);
    this.onDraw?.();
  }

  #drawNote(ending) {
    let text = "";
    if (this.stopped && this.stopped.stopped_by !== "max_tokens") {
      const { scope, limit } = this.stopped;
      text = `A limit${scope ? ` of ${scope}` : ""} had no room for more, so the answer ends here${limit ? ` (limit ${limit})` : ""}.`;
    } else if (ending === "stopped") {
      text = "You stopped this answer. What had been produced by then is counted.";
    } else if (this.finish === "length") {
      text = "The answer reached its max tokens. Raise them for a longer one.";
    } else if (this.finish === "content_filter") {
      text = "A guardrail of the gateway ended this answer.";
    } else if (ending === "complete" && this.text === "") {
      text = "The answer was empty.";
    }
    this.note.textContent = text;
    this.note.hidden = text === "";
  }

  #drawWeight() {
    const reserved = reservedTokens(this.headers?.get("x-weighbridge-reserved"));
    const used = this.usage?.total_tokens;
    this.weight.replaceChildren();
    this.weight.hidden = !(reserved > 0 && used >= 0);
    if (this.weight.hidden) return;
    const beam = element("div", "beam");
    const load = element("div", "beam-load");
    load.style.width = `${Math.min(100, (100 * used) / reserved)}%`;
    beam.append(load);
    const difference = reserved - used;
    this.weight.append(
      beam,
      element("p", "weight-text", `Reserved ${number.format(reserved)} tokens, used ${number.format(used)}, ` +
        (difference >= 0 ? `${number.format(difference)} given back.` : `${number.format(-difference)} topped up on the way.`)),
    );
  }

  #drawFacts(ending) {
    const facts = [];
    const usage = this.usage;
    if (usage) {
      facts.push(["In", `${number.format(usage.prompt_tokens)} tokens`], ["Out", `${number.format(usage.completion_tokens)} tokens`]);
    } else if (this.frames > 0) {
      facts.push(["Out", `about ${number.format(this.frames)} tokens`]);
    }
    if (this.firstAt !== null) {
      facts.push(["First token", milliseconds(this.firstAt - this.sentAt)]);
      const tokens = (usage?.completion_tokens ?? this.frames) - 1; // the first one is what the clock starts at
      const seconds = (this.lastAt - this.firstAt) / 1000;
      // What came in one burst has no pace worth a number.
      if (tokens > 0 && seconds >= 0.02) facts.push(["Speed", `${number.format(Math.round(tokens / seconds))} tokens/s`]);
    }
    const degraded = this.headers?.get("x-weighbridge-degraded");
    if (degraded) facts.push(["Limits", `without Redis (${degraded})`]);
    if (this.model) facts.push(["Answered by", this.model]);
    const requestId = this.headers?.get("x-request-id");
    if (requestId && ending !== "failed") facts.push(["Request id", requestId, "mono"]);
    this.facts.replaceChildren();
    for (const [name, value, className] of facts) {
      const pair = element("div", className);
      pair.append(element("dt", "", name), element("dd", "", value));
      this.facts.append(pair);
    }
    this.facts.hidden = facts.length === 0;
  }

  // Shows a failure in full. `actions` are buttons; returns the line that a countdown may write to and the row of buttons.
  fail(failure, { title, advice }, actions) {
    const box = this.failure;
    box.replaceChildren();
    box.classList.toggle("calm", failure.retryAfter !== null);
    const head = element("p", "failure-title");
    head.append(failure.status >= 300 ? `${title} ` : title);
    if (failure.status >= 300) head.append(element("span", "failure-status", String(failure.status)));
    box.append(head, element("p", "failure-message", failure.message), element("p", "failure-advice", advice));
    const countdown = element("p", "countdown");
    countdown.hidden = true;
    box.append(countdown);
    const row = element("div", "failure-actions");
    row.append(...actions);
    box.append(row);
    const facts = [["code", failure.code], ["field", failure.param], ...Object.entries(failure.detail)]
      .flatMap(([name, value]) => (value && typeof value === "object" ? Object.entries(value) : [[name, value]]))
      .filter(([name, value]) => value !== null && value !== undefined && name !== "request_id" && !(name === "resets_at_ms" && value === 0))
      .map(readable);
    if (failure.requestId) facts.push(["request id", failure.requestId]);
    if (facts.length > 0) {
      const list = element("dl", "failure-facts");
      for (const [name, value] of facts) list.append(element("dt", "", name), element("dd", "", value));
      box.append(list);
    }
    box.hidden = false;
    return { countdown, row };
  }
}
