"use strict";
// The page of a server: what to write, the streams of /v1/denoise into the player, and trace files.

const $ = id => document.getElementById(id);
const HINTS = {
  template: ["A hole: ", "[5]", " five tokens, ", "[1-8]", " a free length, ", "[= king]", " words to be written anew."],
  prompt: ["The model writes behind this text."],
};
const LINES = 64 * 2 ** 20;  // bytes of a trace file that is opened
let key = "", asking = null, models = [], work = null, chosen = { template: $("text").value, prompt: "To be" };
const measured = new Map();  // passes by dial, of one request
const player = new Player($("player"), { pick: changed, moved: changed, lanes: true });

// ---- the server ----

function ask(refused) {  // -> the key; rejects when the reader cancels
  asking ??= new Promise((resolve, reject) => {
    $("ask-why").textContent = refused ? "The server does not take this key. Give another." : "It is kept in this page until you close it, and nowhere else.";
    $("key").value = "";
    $("ask").showModal();
    $("ask-form").onsubmit = event => { event.preventDefault(); key = $("key").value; $("key").value = ""; resolve(); $("ask").close(); };
    $("ask").onclose = () => reject(new Error("The server writes nothing without its key. Write again to give it."));
  }).finally(() => { asking = null; });
  return asking;
}

async function call(path, body, signal) {
  for (;;) {
    const used = key, headers = { ...(body && { "Content-Type": "application/json" }), ...(used && { Authorization: `Bearer ${used}` }) };
    const answer = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), signal })
      .catch(error => { throw signal?.aborted ? error : new Error("The server cannot be reached. Is it still running?"); });
    if (answer.ok) return answer;
    if (answer.status !== 401) throw new Error(await sentence(answer));
    if (used === key) await ask(used !== "");
    signal?.throwIfAborted();
  }
}

async function sentence(answer) {
  const text = await answer.text();
  try { return JSON.parse(text).error.message; } catch { return `The server answered ${answer.status} ${answer.statusText}.`; }
}

async function* messages(answer) {  // the JSON objects of server-sent events
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) throw new Error("The server closed the connection before the text was finished.");
    const parts = (rest + value).split(/\r?\n\r?\n/);
    rest = parts.pop();
    for (const part of parts) {
      const data = part.split(/\r?\n/).filter(line => line.startsWith("data:")).map(line => line.slice(5).trimStart()).join("\n");
      if (data === "[DONE]") return;
      if (data) yield JSON.parse(data);
    }
  }
}

// ---- a request ----

const task = () => document.querySelector("[name=task]:checked").value;
const model = () => models.find(found => found.id === $("model").value);
const number = id => $(id).value === "" ? null : Number($(id).value);
const dialled = () => /^learned/.test($("policy").value.trim()) || $("policy").value.trim() === "" && Boolean(model()?.unmask?.dial);

function request(tokens, foil) {
  const own = !foil, policy = (own ? $("policy") : $("foil")).value.trim();
  const what = tokens ? { tokens } : task() === "template" ? { template: $("text").value } : { prompt: $("text").value, max_tokens: number("tokens") };
  return {
    model: $("model").value, ...what, seed: number("seed"), temperature: number("temperature"), top_p: number("top-p"),
    provisional: $("guesses").checked, alternatives: 5, stream: true,
    unmask: {
      policy: policy || null, dial: own && dialled() && number("passes") === null ? number("dial") : null, passes: own ? number("passes") : null,
      block_size: number("block"), cache: $("cache").value.trim() || null,
    },
  };
}

async function follow(index, body, signal, typed) {  // a stream into the view of this number
  let view = null;
  for await (const message of messages(await call("v1/denoise", body, signal))) {
    signal.throwIfAborted();
    if (message.error) throw new Error(message.error.message);
    if (message.type === "start") view = begin(index, message.header, body, typed);
    else if (message.type === "pass") pass(view, message, index, body);
    else if (message.type === "done") end(view, message, index, body);
  }
  if (!view) throw new Error("The server sent no text.");
}

function pass(view, message, index, body) {  // what a pass did to one of the rows
  Object.assign(view.header.pieces, message.pieces);
  Object.assign(view.header.raw, message.raw);
  view.header.rows[message.row].passes = message.passes;
  player.append(view, message.events);
  if (message.row !== view.number) return;
  view.guesses = new Map((message.provisional ?? []).map(([at, token]) => [at, positionTexts(view.header, [token])[0]]));
  if (index === 0) count(body, message.passes, false);
  tell(view);
}

function begin(index, header, body, typed) {
  header = { raw: {}, columns: null, ...header };
  for (const row of header.rows) { row.held ??= {}; row.typed = { ...typed, ...row.typed }; }
  const trace = { header, events: [], live: true, began: performance.now(), title: header.policy || body.unmask.policy || "text" };
  player.set(index, trace);
  const view = player.slots[index];
  facts(view);
  return view;
}

function facts({ header, facts }) {
  const about = [["", header.checkpoint], ["policy ", header.policy], ["seed ", header.seed], ["blocks of ", header.block_size]];
  facts.replaceChildren(...about.filter(([, value]) => value != null && value !== "").map(([name, value]) => make("span", {}, name, make("b", {}, String(value)))));
}

function end(view, message, index, body) {  // all rows are finished; where lengths were compared, one is the best
  const best = message.best ?? 0, { rows, unmask } = message, { header, trace } = view, { passes } = rows[best];
  rows.forEach((row, at) => Object.assign(header.rows[at], { passes: row.passes, end: row.end ?? null }));
  Object.assign(trace, { seconds: unmask.seconds, texts: rows.map(row => row.text) });
  player.finish(view, best);
  if (index === 0) count(body, passes, true);
  const name = player.views.length > 1 ? `${trace.title}: finished` : "Finished";
  say(`${name} after ${passes} ${passes === 1 ? "pass" : "passes"}, ${trace.seconds.toFixed(2)} seconds. ${rows[best].text}`);
}

async function write(tokens = null, typed = {}) {
  work?.abort();
  const own = work = new AbortController(), race = $("race").checked && !tokens;
  player.stop();
  player.follow = true;
  error("");
  const bodies = [request(tokens), ...(race ? [request(null, true)] : [])];
  if (!race) player.set(1, null);
  $("result").hidden = false;
  changed();
  try {
    await Promise.all(bodies.map((body, index) => follow(index, body, own.signal, typed)));
  } catch (failure) {
    own.abort();
    if (work === own && failure.name !== "AbortError") error(failure.message);
  } finally {
    if (work === own) {
      work = null;
      for (const view of player.views) if (view.live) cut(view);
    }
    changed();
  }
}

function cut(view) {  // a text that was stopped: it has what was written
  view.trace.seconds = (performance.now() - view.trace.began) / 1000;
  player.finish(view, view.number);
}

// ---- what is said ----

let told = 0, spoken = 0;
function tell(view) {  // to a screen reader, now and then
  const now = performance.now();
  if (now - view.trace.began < 5000 || now - told < 5000 || view !== player.views[0]) return;
  told = now;
  say(`${view.canvas().filter(token => token !== view.header.mask_id).length} of ${view.cells.length} tokens after ${view.row.passes} passes.`);
}

function say(text) {
  const other = $("status");
  clearTimeout(spoken);
  waiting.push(text);
  spoken = setTimeout(() => { other.textContent = waiting.splice(0).join(" "); }, 100);
}
const waiting = [];

function error(text) { $("error").textContent = text; }

function count(body, passes, whole) {  // passes beside the dial
  if (body.unmask.dial === null) return $("dial-passes").value = "";
  const rest = JSON.stringify({ ...body, unmask: { ...body.unmask, dial: null } });
  if (measured.rest !== rest) { measured.clear(); measured.rest = rest; }
  if (whole) measured.set(body.unmask.dial, passes);
  const list = [...measured].sort((a, b) => a[0] - b[0]).map(([dial, n]) => `${dial}: ${n}`);
  $("dial-passes").value = `${body.unmask.dial}: ${passes} passes${list.length > 1 ? ` (${list.join(", ")})` : ""}`;
}

// ---- the buttons ----

function changed() {
  const view = player.views[0], idle = work === null;
  $("stop").hidden = idle;
  const masked = view && view.canvas(view.shown).includes(view.header.mask_id);
  $("go-on").disabled = !(idle && view && models.length && (masked || view.picked.size));
  for (const id of ["copy", "save"]) $(id).disabled = !view || view.live;
  $("said").textContent = "";
}

function goOn() {
  const view = player.views[0], { mask_id: mask } = view.header;
  const tokens = view.canvas(view.shown).map((token, at) => token === mask || view.picked.has(at) ? null : token);
  // What was typed stays as it was typed, where it was not hidden.
  const typed = Object.fromEntries(Object.entries(view.row.typed ?? {}).filter(([at]) => tokens[at] !== null));
  write(tokens, typed);
}

const whole = view => view.trace.texts?.[view.number] ?? view.texts().slice(0, view.row.end ?? undefined).join("");

async function copy() {
  const text = player.views.length > 1 ? player.views.map(view => `${view.trace.title}:\n${whole(view)}`).join("\n\n") : whole(player.views[0]);
  try { await navigator.clipboard.writeText(text); $("said").textContent = "Copied."; } catch { copyBySelection(text); }
}

function copyBySelection(text) {  // pages that are not loopback and not https have no clipboard of their own
  const area = make("textarea", { class: "unseen", "aria-hidden": "true" });
  area.value = text;
  document.body.append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  $("said").textContent = done ? "Copied." : "This browser does not let the page copy.";
}

const jsonl = ({ header, events }) => [{ unmask_trace: 1, ...header }, ...events].map(line => `${JSON.stringify(line)}\n`).join("");

function save() {
  player.views.forEach((view, at) => {
    const address = URL.createObjectURL(new Blob([jsonl(view.trace)], { type: "application/jsonl" }));
    const link = make("a", { href: address, download: at ? `trace-${at + 1}.jsonl` : "trace.jsonl" });
    link.click();
    setTimeout(() => URL.revokeObjectURL(address), 1000);
  });
  $("said").textContent = "Saved; unmask watch plays it too.";
}

async function open(file) {
  error("");
  try {
    if (file.size > LINES) throw new Error(`${file.name} is larger than a trace that this page opens; unmask watch plays it.`);
    const trace = parsed(await file.text(), file.name);
    work?.abort();
    player.set(1, null);
    player.set(0, { ...trace, title: file.name });
    facts(player.views[0]);
    $("result").hidden = false;
    player.go(player.steps.length - 1);
    const [fewest] = trace.header.rows;
    say(`${file.name}: ${trace.events.length} events, ${fewest.passes} passes. ${whole(player.views[0])}`);
  } catch (failure) { error(failure.message); }
  changed();
}

function parsed(text, name) {  // the text of a trace file -> {header, events}
  const refuse = why => { throw new Error(`${name} ${why}; give a .jsonl file that was saved here or that --trace wrote.`); };
  const lines = text.split("\n").filter(line => line.trim());
  let header, events = [];
  try { header = JSON.parse(lines[0]); } catch { refuse("is not a trace"); }
  if (!header || !Number.isInteger(header.unmask_trace)) refuse("is not a trace");
  if (header.unmask_trace !== 1) refuse(`has trace format ${header.unmask_trace}, and this page reads 1`);
  if (!header.rows?.length || !header.pieces || !header.rows.every(row => Array.isArray(row.start))) refuse("is damaged in line 1");
  header = { raw: {}, columns: null, box: null, ...header };
  lines.slice(1).forEach((line, at) => {
    let event;
    try { event = JSON.parse(line); } catch { if (at === lines.length - 2) return; refuse(`is damaged in line ${at + 2}`); }
    const start = header.rows[event?.row]?.start;
    if (!start || !(event.position in start) || !Object.hasOwn(LABELS, event.kind) || !(event.step > 0)) refuse(`is damaged in line ${at + 2}`);
    events.push(event);
  });
  return { header, events };
}

// ---- the form ----

function shape() {  // the fields that go with the model and the task
  const found = model();
  const code = text => text.startsWith("[") ? make("code", {}, text) : text;
  $("text-label").textContent = task() === "template" ? "Template" : "Prompt";
  $("hint").replaceChildren(...HINTS[task()].map(code), found?.unmask?.window ? ` The model reads ${found.unmask.window} tokens.` : "");
  $("tokens-field").hidden = task() === "template";
  $("tokens").disabled = task() === "template";
  $("dial-field").hidden = !dialled();
  $("dial").style.setProperty("--done", `${100 * $("dial").value}%`);
  $("policies").replaceChildren(...(found?.unmask?.policies ?? []).map(name => make("option", { value: name })));
}

async function start() {
  try {
    const answer = await call("v1/models");
    models = (await answer.json()).data;
    $("model").replaceChildren(...models.map(found => make("option", { value: found.id }, found.id)));
  } catch (failure) { error(failure.message); }
  shape();
  changed();
}

let pause = 0;
$("form").addEventListener("submit", async event => { event.preventDefault(); if (!models.length) await start(); if (models.length) write(); });
$("form").addEventListener("change", shape);
$("policy").addEventListener("input", shape);
$("text").addEventListener("input", () => { chosen[task()] = $("text").value; });
$("text").addEventListener("keydown", event => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("form").requestSubmit(); });
for (const radio of document.querySelectorAll("[name=task]")) radio.addEventListener("change", () => { $("text").value = chosen[task()]; });
$("dial").addEventListener("input", () => {
  shape();
  clearTimeout(pause);
  pause = setTimeout(() => { if (!$("result").hidden) $("form").requestSubmit(); }, 200);
});
$("another").addEventListener("click", () => { $("seed").value = Math.floor(Math.random() * 1e6); });
$("stop").addEventListener("click", () => work?.abort());
$("go-on").addEventListener("click", goOn);
$("copy").addEventListener("click", copy);
$("save").addEventListener("click", save);
$("open").addEventListener("click", () => $("file").click());
$("file").addEventListener("change", () => { if ($("file").files[0]) open($("file").files[0]); $("file").value = ""; });
$("ask-no").addEventListener("click", () => $("ask").close());
start();
