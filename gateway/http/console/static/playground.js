// The playground: holds the conversation, and ties the page's controls to the gateway's own public API.

import { adviceFor } from "./advice.js";
import { Answer, button, element } from "./answer.js";
import * as keys from "./keys.js";
import { watchReadiness } from "./readiness.js";
import { drawRoom } from "./room.js";
import { snippets } from "./snippets.js";
import { signIn } from "./session.js";
import { Failure, chat, readEndpoints } from "./stream.js";

const $ = (id) => document.getElementById(id);
const SETTINGS = "weighbridge.settings";

let conversation = []; // {role, content}: questions with their answers, which the next request repeats
let lastAsked = null; // the messages of the latest request, answered or not
let busy = null; // the AbortController of the answer on its way
let listing = null; // the AbortController of the list being read

// ---- settings

const fields = ["system", "temperature", "max-tokens"];

function remember() {
  const values = Object.fromEntries(fields.map((id) => [id, $(id).value]));
  sessionStorage.setItem(SETTINGS, JSON.stringify({ ...values, endpoint: $("endpoint").value || remembered().endpoint }));
}

function remembered() {
  try {
    return JSON.parse(sessionStorage.getItem(SETTINGS) ?? "{}") ?? {};
  } catch {
    return {};
  }
}

function request(messages) {
  const system = $("system").value.trim();
  const body = {
    model: $("endpoint").value || "databricks-mixtral-8x7b-instruct",
    messages: [...(system ? [{ role: "system", content: system }] : []), ...messages],
  };
  if ($("temperature").value !== "") body.temperature = Number($("temperature").value);
  if ($("max-tokens").value !== "") body.max_tokens = Number($("max-tokens").value);
  return body;
}

// ---- keys and endpoints

function drawKeys() {
  const list = keys.all();
  const current = keys.chosen();
  const select = $("key");
  select.replaceChildren(...list.map((entry, index) => new Option(entry.label, String(index), false, entry.key === current?.key)));
  if (list.length === 0) select.append(new Option("None yet", ""));
  select.disabled = list.length === 0;
  $("forget-key").hidden = $("starts").hidden = list.length === 0;
  $("first-key").hidden = list.length > 0;
  $("key-note").textContent = current?.until
    ? `Signed in until ${new Date(current.until).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" })}: this tab keeps a token, not your key.`
    : "Kept in this browser tab only; gone when you close it.";
}

async function drawEndpoints() {
  listing?.abort();
  listing = new AbortController();
  const { signal } = listing;
  const entry = keys.chosen();
  const select = $("endpoint");
  const note = $("endpoint-note");
  const say = (text, isProblem = false) => {
    note.textContent = text;
    note.classList.toggle("problem", isProblem);
  };
  select.replaceChildren();
  select.disabled = true;
  $("reload-endpoints").hidden = entry === null;
  if (entry === null) {
    say("Add a key to see what it may query.");
    return drawTitle();
  }
  say("Reading the list…");
  try {
    const names = await readEndpoints(entry.key, signal);
    const wanted = remembered().endpoint;
    select.replaceChildren(...names.map((name) => new Option(name, name, false, name === wanted)));
    select.disabled = names.length === 0;
    if (names.length === 0) say("This key may query no endpoint. Ask an administrator for CAN_QUERY on one.", true);
    else say(names.length === 1 ? "The one endpoint this key may query." : `${names.length} endpoints that this key may query.`);
  } catch (error) {
    if (signal.aborted) return;
    if (!(error instanceof Failure)) say("The gateway's list of endpoints could not be read.", true);
    else say(`${error.message} ${adviceFor(error, {}).advice}`, true);
  }
  drawTitle();
}

function drawTitle() {
  $("bar-title").textContent = $("endpoint").value || "No endpoint chosen";
}

function askForKey() {
  $("new-key").value = $("new-key-name").value = $("new-key-problem").textContent = "";
  $("key-dialog").showModal();
  $("new-key").focus();
}

// ---- the conversation

const talk = $("talk");
let follows = true; // whether the view stays at the end while text arrives

function scrollDown(always = false) {
  if (always || follows) talk.scrollTop = talk.scrollHeight;
}

function setBusy(controller) {
  busy = controller;
  $("send").hidden = controller !== null;
  $("stop").hidden = controller === null;
  $("new-conversation").disabled = controller === null && lastAsked === null;
}

function addQuestion(text) {
  $("empty").hidden = true;
  const turn = element("article", "turn question");
  turn.setAttribute("aria-label", "You");
  turn.append(element("p", "", text));
  $("turns").append(turn);
}

// Waits with a visible countdown; false where `signal` ended the wait.
function countDown(line, seconds, wording, signal) {
  const until = performance.now() + 1000 * seconds;
  line.hidden = false;
  return new Promise((resolve) => {
    const tick = () => {
      const left = Math.ceil((until - performance.now()) / 1000);
      line.textContent = wording(Math.max(0, left));
      if (signal.aborted || left <= 0) {
        clearInterval(timer);
        resolve(!signal.aborted);
      }
    };
    const timer = setInterval(tick, 200);
    signal.addEventListener("abort", tick, { once: true });
    tick();
  });
}

async function once(answer, body, key, signal) {
  answer.restart();
  for await (const part of chat(body, key, signal)) {
    answer.take(part);
    if (part.headers) drawRoom($("room"), $("room-meters"), part.headers);
  }
}

async function ask(messages) {
  const entry = keys.chosen();
  const controller = new AbortController();
  const { signal } = controller;
  const answer = new Answer();
  answer.onDraw = () => scrollDown();
  $("turns").append(answer.root);
  lastAsked = messages;
  setBusy(controller);
  scrollDown(true);
  $("spoken").textContent = "Waiting for the answer";

  for (let again = true; again; ) {
    again = false;
    try {
      await once(answer, request(messages), entry.key, signal);
      answer.end("complete");
      $("spoken").textContent = `Answer complete: ${answer.text}`;
    } catch (error) {
      if (signal.aborted) {
        answer.end("stopped");
        $("spoken").textContent = "Answer stopped";
      } else {
        again = await refused(answer, error, messages, signal);
      }
    }
  }
  if (busy !== controller) return; // a new conversation was begun meanwhile
  // A question without an answer is not repeated: models want the two to alternate.
  conversation = answer.text === "" ? messages.slice(0, -1) : [...messages, { role: "assistant", content: answer.text }];
  setBusy(null);
  drawCode();
}

// Shows what went wrong; true where the same request is to be sent again by itself.
async function refused(answer, error, messages, signal) {
  const failure = error instanceof Failure ? error : new Failure({ message: `The page itself failed: ${error.message}` });
  const advice = adviceFor(failure, { endpoint: $("endpoint").value });
  answer.headers ??= failure.headers;
  answer.end("failed");
  drawRoom($("room"), $("room-meters"), failure.headers);
  const retry = button("Try again", "quiet", () => {
    if (busy !== null) return;
    for (let node = answer.root; node; ) {
      const next = node.nextElementSibling; // a later turn was built on this one, so it goes too
      node.remove();
      node = next;
    }
    ask(messages);
  });
  const actions = [];
  if (advice.again && !advice.byItself) actions.push(retry);
  if (advice.changeKey) actions.push(button("Use another key", "quiet", askForKey));
  if (advice.reload) actions.push(button("Read the list again", "quiet", drawEndpoints));
  const { countdown: line, row } = answer.fail(failure, advice, actions);
  $("spoken").textContent = `${advice.title}. ${failure.message}`;
  scrollDown();
  if (failure.retryAfter === null) return false;

  const seconds = Math.max(1, failure.retryAfter);
  if (advice.byItself) {
    const goOn = await countDown(line, seconds, (left) => `Trying again in ${left} s. Stop ends the wait.`, signal);
    if (!goOn) {
      line.textContent = "You stopped the wait.";
      row.append(retry);
    }
    return goOn;
  }
  retry.disabled = true;
  countDown(line, seconds, (left) => (left > 0 ? `Room again in ${left} s` : "There should be room now."), new AbortController().signal)
    .then(() => { retry.disabled = false; });
  return false;
}

function send() {
  const text = $("message").value.trim();
  if (busy !== null || text === "") return;
  if (keys.chosen() === null) return askForKey();
  if ($("endpoint").value === "") {
    $("endpoint-note").textContent ||= "Choose an endpoint first.";
    openSide(true);
    return $("endpoint").focus();
  }
  for (const id of ["temperature", "max-tokens"]) {
    if (!$(id).checkValidity()) {
      openSide(true);
      return $(id).reportValidity();
    }
  }
  $("message").value = "";
  fit();
  follows = true;
  addQuestion(text);
  ask([...conversation, { role: "user", content: text }]);
}

function startAgain() {
  busy?.abort();
  busy = null;
  conversation = [];
  lastAsked = null;
  for (const turn of [...$("turns").querySelectorAll(".turn")]) turn.remove();
  $("empty").hidden = false;
  setBusy(null);
  $("message").focus();
}

// ---- the code drawer

let snippet = "curl";

function drawCode() {
  if (!$("code-dialog").open) return;
  const draft = $("message").value.trim();
  const messages = draft === "" && lastAsked !== null ? lastAsked : [...conversation, { role: "user", content: draft || "Say hello." }];
  $("code").textContent = snippets[snippet](request(messages), location.origin);
  for (const tab of document.querySelectorAll("[data-snippet]")) {
    const selected = tab.dataset.snippet === snippet;
    tab.setAttribute("aria-selected", String(selected));
    tab.tabIndex = selected ? 0 : -1;
    if (selected) $("code-panel").setAttribute("aria-labelledby", tab.id);
  }
}

async function copyCode() {
  const note = $("code-note");
  const usual = "The key is read from the environment and is not part of the code.";
  try {
    await navigator.clipboard.writeText($("code").textContent);
    note.textContent = "Copied.";
  } catch {
    getSelection().selectAllChildren($("code")); // pages on plain http elsewhere have no clipboard
    note.textContent = "The text is selected; copy it with the keyboard.";
  }
  setTimeout(() => { note.textContent = usual; }, 3000);
}

// ---- wiring

function fit() {
  const field = $("message");
  field.style.height = "auto";
  field.style.height = `${Math.min(field.scrollHeight, innerHeight * 0.35)}px`;
}

function openSide(open) {
  document.body.classList.toggle("side-open", open);
  $("open-side").setAttribute("aria-expanded", String(open));
}

function wire() {
  const values = remembered();
  for (const id of fields) {
    if (typeof values[id] === "string") $(id).value = values[id];
    $(id).addEventListener("change", () => { remember(); drawCode(); });
  }
  $("endpoint").addEventListener("change", () => { remember(); drawTitle(); });
  $("key").addEventListener("change", () => { keys.choose(Number($("key").value)); drawKeys(); drawEndpoints(); });
  $("add-key").addEventListener("click", askForKey);
  $("first-key").addEventListener("click", askForKey);
  $("forget-key").addEventListener("click", () => {
    const entry = keys.chosen();
    if (entry) keys.forget(entry);
    drawKeys();
    drawEndpoints();
  });
  $("cancel-key").addEventListener("click", () => $("key-dialog").close());
  $("key-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    const key = $("new-key").value.trim();
    const problem = keys.problemWith(key);
    $("new-key-problem").textContent = problem ?? "";
    if (problem) return $("new-key").focus();
    $("new-key").value = "";
    $("key-dialog").close();
    keys.add(key, $("new-key-name").value.trim(), await signIn(key));
    drawKeys();
    drawEndpoints();
    $("message").focus();
  });
  $("reload-endpoints").addEventListener("click", drawEndpoints);

  $("composer").addEventListener("submit", (event) => { event.preventDefault(); send(); });
  $("message").addEventListener("input", fit);
  $("message").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    send();
  });
  $("stop").addEventListener("click", () => { busy?.abort(); $("message").focus(); });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || document.querySelector("dialog[open]")) return;
    if (document.body.classList.contains("side-open")) openSide(false);
    else busy?.abort();
  });
  talk.addEventListener("scroll", () => { follows = talk.scrollHeight - talk.scrollTop - talk.clientHeight < 60; });
  $("new-conversation").addEventListener("click", startAgain);
  for (const start of $("starts").children) {
    start.addEventListener("click", () => {
      $("message").value = start.textContent;
      send();
    });
  }

  $("show-code").addEventListener("click", () => { $("code-dialog").showModal(); drawCode(); });
  $("close-code").addEventListener("click", () => $("code-dialog").close());
  $("copy-code").addEventListener("click", copyCode);
  const tabs = [...document.querySelectorAll("[data-snippet]")];
  tabs.forEach((tab, index) => {
    tab.addEventListener("click", () => { snippet = tab.dataset.snippet; drawCode(); });
    tab.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      const next = tabs[(index + step + tabs.length) % tabs.length];
      next.click();
      next.focus();
    });
  });
  for (const dialog of document.querySelectorAll("dialog")) {
    dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  }

  $("open-side").addEventListener("click", () => openSide(true));
  $("close-side").addEventListener("click", () => openSide(false));
  watchReadiness((text) => {
    if ($("state").textContent !== (text ?? "")) $("state").textContent = text ?? "";
    $("state").hidden = text === null;
  });
  drawKeys();
  drawEndpoints();
  if (keys.chosen() !== null) $("message").focus();
}

wire();
