"use strict";
// Plays traces: on a page of its own, in a notebook, and on the page of a server. Needs no network and no library.
// A trace is {header, events} as in a trace file, and more while it is being written: `live` (whether it is),
// `began` (milliseconds of performance.now()) or `seconds`, and `title`. A View draws a row of a trace after a step.
// A Player has the controls; it moves its views through their steps together. Text is set as text, never as HTML.

const RATES = [0.25, 0.5, 1, 2, 4, 8], FRAME = 1000 / 30;
const LABELS = { committed: "written", edited: "edited", rescued: "rescued", remasked: "hidden again" };
const PATHS = {
  first: "M3 3h2v10H3zM13 3v10L6 8z", back: "M11 3v10L4 8z", play: "M5 3v10l8-5z", pause: "M4 3h3v10H4zM9 3h3v10H9z",
  next: "M5 3v10l7-5z", last: "M11 3h2v10h-2zM3 3v10l7-5z",
};
const make = (name, attributes = {}, ...children) => {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
};
const drawing = (name, attributes, ...children) => {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
};

// ---- the text of tokens ----

const clean = text => text.replace(/[\p{Cc}\p{Cf}\p{Co}\p{Cs}]/gu, sign => sign === "\n" ? sign : sign === "\t" ? " " : "\ufffd");

function character(raw, tokens, at) {  // the shortest run of tokens whose bytes are whole characters
  let bytes = [];
  for (let n = 1; n <= 4 && at + n <= tokens.length && tokens[at + n - 1] in raw; n++) {
    bytes = bytes.concat(raw[tokens[at + n - 1]].match(/../g).map(two => parseInt(two, 16)));
    try { return [new TextDecoder("utf-8", { fatal: true }).decode(new Uint8Array(bytes)), n]; } catch { /* more */ }
  }
  return ["\ufffd", 1];
}

function positionTexts(header, tokens, typed = {}) {
  const out = [];
  while (out.length < tokens.length) {
    const token = tokens[out.length];
    let text = "", n = 1;
    if (out.length in typed) text = typed[out.length];
    else if (token in header.raw) [text, n] = character(header.raw, tokens, out.length);
    else if (token !== header.mask_id) text = header.pieces[token] ?? "\ufffd";
    out.push(clean(text));
    for (; n > 1; n--) out.push("");
  }
  return out;
}

const seen = text => text === "" ? "∅" : text.replace(/\n/g, "↵").replace(/^ +| +$/g, spaces => "␣".repeat(spaces.length));
const glyph = text => text.includes("\n") ? "↵" : "␣";
const figure = p => p === null ? "" : p >= 0.9995 ? "1.000" : p < 0.0005 ? "< .001" : p.toFixed(3).slice(1);
const share = p => Math.sqrt(p ?? 0.25);  // probabilities of texts are mostly below one half

// ---- a row of a trace ----

class View {
  constructor(player, trace) {
    Object.assign(this, { player, trace, header: trace.header, picked: new Set(), guesses: new Map(), shown: 0 });
    this.stage = make("div", { role: "listbox", "aria-label": trace.title ?? "the canvas" });
    if (player.options.pick) this.stage.setAttribute("aria-multiselectable", "true");
    this.facts = make("p", { class: "facts" });
    this.figures = make("p", { class: "figures" });
    this.lane = make("div", { class: "lane" }, this.stage);
    this.listen();
    this.load(0);
  }

  load(number) {
    this.number = number;
    this.row = this.header.rows[number];
    this.history = this.row.start.map(() => []);
    this.steps = [0];
    for (const event of this.trace.events) if (event.row === number) this.keep(event);
    this.steps = [...new Set(this.steps)].sort((a, b) => a - b);
    this.layout();
  }

  keep(event) {  // positions behind the start belong to a later window
    const { start } = this.row, before = start.length;
    while (start.length <= event.position) { start.push(this.header.mask_id); this.history.push([]); }
    this.history[event.position].push(event);
    if (event.step !== this.steps.at(-1)) this.steps.push(event.step);
    return start.length > before;
  }

  append(events) {  // later than all before
    this.trace.events.push(...events);
    if (events.filter(event => event.row === this.number && this.keep(event)).length) this.layout();
  }

  get last() { return this.steps.at(-1); }
  get live() { return this.trace.live === true; }

  latest(at, step) { return this.history[at].findLast(event => event.step <= step); }

  canvas(step = Infinity) {
    return this.row.start.map((token, at) => {
      const event = this.latest(at, step);
      return !event ? token : event.kind === "remasked" ? this.header.mask_id : event.token;
    });
  }

  texts(step = Infinity) { return positionTexts(this.header, this.canvas(step), this.row.typed); }

  layout() {
    const { header, row, stage } = this, columns = header.columns, final = this.texts();
    stage.className = columns ? "grid" : this.live ? "text fixed" : "text";
    if (this.player.options.pick) stage.classList.add("pick");
    stage.style.setProperty("--digits", String(this.last).length);
    if (columns) {
      stage.style.setProperty("--columns", columns);
      stage.style.setProperty("--lines", Math.ceil(row.start.length / columns));
    } else if (this.live) stage.style.setProperty("--cell", `${this.width ??= this.usual(final)}em`);
    this.cells = row.start.map((token, at) => {
      const ink = make("span", { tabindex: -1, role: "option", "aria-selected": "false", "data-at": at });
      const open = token === header.mask_id, cell = make("span", {}, ink);
      // A number above a single letter needs more space than the letter.
      ink.className = final[at].trim().length < 2 && open ? "ink narrow" : "ink";
      if (!columns && open && /^\n/.test(final[at]) && !final[at].trim()) ink.classList.add("hang");
      return { cell, ink, slot: this.live && open && !columns, ghost: this.live ? "" : final[at], key: "", frame: columns ? this.ruled(at) : "" };
    });
    stage.replaceChildren(...this.cells.map(cell => cell.cell));
    this.wanted = row.start.filter(token => token === header.mask_id).length;
    this.active = Math.min(this.active ?? Math.max(0, row.start.indexOf(header.mask_id)), this.cells.length - 1);
  }

  usual(texts) {  // the width of a position that is being written, in em, by what stands in the text already
    const lengths = texts.map(text => text.trim().length).filter(Boolean);
    const mean = lengths.length ? lengths.reduce((sum, n) => sum + n, 0) / lengths.length : 5;
    return Math.max(1.4, Math.min(0.55 * mean + 0.9, 4)).toFixed(2);
  }

  ruled(at) {  // the sides of a cell that have a thick line
    const { columns, box } = this.header, length = this.row.start.length, [height, width] = box ?? [length, columns];
    const line = Math.floor(at / columns), column = at % columns;
    return [
      line === 0 ? "top" : "", column === 0 ? "left" : "",
      (column + 1) % width === 0 || column === columns - 1 ? "right" : "",
      (line + 1) % height === 0 || at + columns >= length ? "bottom" : "",
    ].join(" ");
  }

  // ---- a frame ----

  draw(step) {
    step = this.shown = Math.min(step, this.last);
    const tokens = this.canvas(step), texts = positionTexts(this.header, tokens, this.row.typed), end = this.row.end ?? Infinity;
    let passes = 0, filled = this.wanted;
    tokens.forEach((token, at) => {
      const event = this.latest(at, step), masked = token === this.header.mask_id;
      if (masked) filled--;
      const state = !event ? (masked ? "masked" : "given") : masked ? "masked again" : `written ${event.kind}`;
      const fresh = event && step && event.step === step ? " new" : "", dropped = at >= end && !masked ? " dropped" : "";
      const marks = `${this.cells[at].slot ? " slot" : ""}${this.picked.has(at) ? " picked" : ""}`;
      this.paint(at, `cell ${state}${fresh}${dropped}${marks} ${this.cells[at].frame}`, masked ? null : texts[at], event);
      if (event) passes = Math.max(passes, event.passes);
    });
    this.stage.style.setProperty("--now", step);
    const over = step === this.last;
    this.count(step, over ? this.row.passes : passes, filled);
    this.cells.forEach((cell, at) => { cell.ink.tabIndex = at === this.active ? 0 : -1; });
  }

  count(step, passes, filled) {
    const { trace, row, wanted } = this, seconds = trace.seconds ?? (this.live ? (performance.now() - trace.began) / 1000 : null);
    const total = this.live ? "" : ` / ${row.passes}`, value = (name, text) => make("span", {}, `${name} `, make("b", { "data-figure": name }, text));
    this.figures.replaceChildren(
      value("step", this.live ? `${step}` : `${step} / ${this.last}`), value("passes", `${passes}${total}`),
      value("tokens", `${filled} / ${wanted}`), make("span", {}, passes ? `${(filled / passes).toFixed(1)} a pass` : ""),
    );
    if (seconds !== null) this.figures.append(value("seconds", seconds.toFixed(seconds < 10 ? 2 : 1)));
  }

  paint(at, classes, text, event) {
    const cell = this.cells[at], order = event ? (event.kind === "remasked" ? "↺" : event.step) : "", c = event ? share(event.confidence) : 0;
    const guess = text === null && this.shown === this.last ? this.guesses.get(at) : undefined;
    const key = `${classes}|${text}|${order}|${c}|${guess}`;
    if (key === cell.key) return;
    cell.key = key;
    cell.cell.className = classes;
    cell.ink.style.setProperty("--c", `${(100 * c).toFixed(1)}%`);
    cell.ink.style.setProperty("--step", event ? event.step : 0);
    if (order === "") cell.ink.removeAttribute("data-order"); else cell.ink.dataset.order = order;
    // The later text has its space from the start, so that nothing moves when it appears.
    const whole = text ?? guess ?? cell.ghost, grid = this.header.columns, bare = whole.trim();
    const core = grid ? bare : bare || (whole ? glyph(whole) : ""), hidden = text === null && guess === undefined;
    const lead = bare ? whole.match(/^\s*/)[0] : "", trail = bare ? whole.match(/\s*$/)[0] : whole;
    const name = hidden ? "ghost" : guess !== undefined ? "guess" : bare ? "word-of" : "glyph word-of";
    const word = make("span", { class: name }, make("span", {}, core || (text === null ? "\u2002" : "")));
    if (text === null) word.setAttribute("aria-hidden", "true");
    if (cell.slot) word.style.setProperty("--squeeze", Math.max(0.5, Math.min(1, (this.width - 0.3) / (0.55 * core.length))).toFixed(2));
    cell.ink.replaceChildren(word);
    const label = text === null ? "masked" : `${seen(text)}${event ? `, step ${event.step}` : ", given"}`;
    cell.ink.setAttribute("aria-label", this.picked.has(at) ? `${label}, will be hidden` : label);
    cell.ink.setAttribute("aria-selected", this.picked.has(at));
    if (grid || cell.slot) cell.cell.replaceChildren(cell.ink); else cell.cell.replaceChildren(lead, cell.ink, trail);
  }

  // ---- the tokens of a position, and choosing it ----

  card(at) {
    const step = this.shown, past = this.history[at].filter(event => event.step <= step), event = past.at(-1);
    const name = token => seen(positionTexts(this.header, [token])[0]), { row } = this, parts = [];
    const hidden = !event ? row.start[at] === this.header.mask_id : event.kind === "remasked";
    parts.push(make("div", { class: "word" }, hidden ? "masked" : seen(this.texts(step)[at]), make("i", {}, !event ? (hidden ? "" : "given") : LABELS[event.kind])));
    const where = [`position ${at}`];
    if (event) where.push(`step ${event.step}`, `pass ${event.passes}`, `block ${event.block}`);
    parts.push(make("p", {}, where.join(" · ")));
    if (event && !hidden) parts.push(choices(event, name));
    const held = row.held ?? {};
    if (past.length > 1 || hidden && event || at in held) {
      const list = make("ol");
      if (at in held) list.append(make("li", {}, `before: ${name(held[at])}`));
      for (const e of past) list.append(make("li", {}, `step ${e.step}: ${name(e.token)} ${LABELS[e.kind]}, ${figure(e.confidence)}`));
      parts.push(list);
    }
    return parts;
  }

  pick(at) {
    if (this.live || this.canvas(this.shown)[at] === this.header.mask_id) return;
    if (!this.picked.delete(at)) this.picked.add(at);
    this.draw(this.shown);
    this.player.options.pick(this);
  }

  walk(by) {
    const inside = this.stage.contains(document.activeElement), to = inside ? this.active + by : this.active;
    if (to >= 0 && to < this.cells.length) this.cells[this.active = to].ink.focus();
  }

  listen() {
    const { player, stage } = this, under = event => event.target.closest?.("[data-at]")?.dataset.at;
    stage.addEventListener("mouseover", event => { const at = under(event); if (at === undefined) player.hide(); else player.show(this, Number(at)); });
    stage.addEventListener("mouseleave", () => player.hide());
    stage.addEventListener("focusin", event => {
      const at = under(event);
      if (at === undefined) return;
      player.current = this;
      this.active = Number(at);
      this.cells.forEach((cell, other) => { cell.ink.tabIndex = other === this.active ? 0 : -1; });
      player.show(this, this.active);
    });
    stage.addEventListener("focusout", () => player.hide());
    if (player.options.pick) stage.addEventListener("click", event => { const at = under(event); if (at !== undefined) this.pick(Number(at)); });
  }
}

function choices(event, name) {
  const list = [...(event.alternatives ?? [])], table = make("table");
  if (!list.some(([token]) => token === event.token)) list.push([event.token, event.confidence]);
  for (const [token, p] of list) {
    const bar = make("span");
    bar.style.width = `${100 * (p ?? 0)}%`;
    const line = make("tr", {}, make("td", {}, name(token)), make("td", {}, make("div", { class: "bar" }, bar)), make("td", {}, figure(p)));
    if (token === event.token) line.className = "chosen";
    table.append(line);
  }
  return table;
}
