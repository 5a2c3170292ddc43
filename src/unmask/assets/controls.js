"use strict";
// The controls of `player.js`: one row of them moves all views, by step, through what they have.

class Player {
  // root: an element. options: `lanes` (facts and figures stand at each view), `pick(view)` is called when a position is chosen to be hidden; `moved(player)` after each frame.
  constructor(root, options = {}) {
    Object.assign(this, { root, options, slots: [], steps: [0], frame: 0, rate: 2, timer: 0, open: null, current: null, follow: false, draws: 0, due: 0 });
    this.lanes = make("div", { class: "lanes" });
    this.bars = drawing("svg", { class: "bars", preserveAspectRatio: "none", "aria-hidden": "true" });
    this.slider = make("input", { type: "range", min: 0, max: 0, value: 0, "aria-label": "step" });
    this.card = make("div", { class: "card", role: "tooltip" });
    this.card.hidden = true;
    this.chooser = make("select", { "aria-label": "row" });
    this.deck = make("footer", { class: "deck" }, this.bars, this.slider, this.controls(), this.legend());
    root.classList.add("player");
    root.replaceChildren(this.lanes, this.deck, this.card);
    this.listen();
    this.signs();
  }

  controls() {
    const button = (name, title, label, act) => {
      const made = make("button", { type: "button", class: name, title, "aria-label": label });
      if (PATHS[name]) made.append(drawing("svg", { viewBox: "0 0 16 16", "aria-hidden": "true" }, drawing("path", { d: PATHS[name] })));
      made.addEventListener("click", act);
      return made;
    };
    this.play = button("play", "play or pause (space)", "play", () => this.toggle());
    this.speed = button("speed", "speed (+ and -)", "speed", () => { this.rate = this.rate === RATES.length - 1 ? 0 : this.rate + 1; this.pace(0); });
    this.colour = button("colour", "colour by confidence or by age (c)", "colour", () => this.recolour());
    return this.row = make("div", { class: "controls" },
      button("first", "first (home)", "first", () => this.jump(0)), button("back", "step back (left)", "step back", () => this.jump(this.frame - 1)),
      this.play, button("next", "step on (right)", "step on", () => this.jump(this.frame + 1)),
      button("last", "last (end)", "last", () => this.jump(this.steps.length - 1)), this.speed, this.colour, this.chooser);
  }

  legend() {
    const sign = (classes, text, name, kind) => {
      const made = make("span", { class: classes }, make("span", { class: "ink" }, text), name);
      if (kind) made.dataset.kind = kind;
      return made;
    };
    const key = name => make("kbd", {}, name);
    this.least = make("span"); this.most = make("span");
    return make("div", { class: "legend" }, make("div", {},
      make("span", {}, this.least, make("span", { class: "scale" }), this.most), sign("given", "a", "given"), sign("masked", "\u00a0\u00a0", "masked"),
      sign("new", "a", "new"), sign("masked again", "\u00a0\u00a0", "hidden again", "remasked"), sign("edited", "a", "edited", "edited"),
      sign("rescued", "a", "rescued", "rescued")),
      make("span", { class: "keys" }, key("space"), " ", key("←"), " ", key("→"), " play, step \u00a0", key("↑"), " ", key("↓"), " tokens"));
  }

  // ---- what is played ----

  set(index, trace) {  // a trace, or null, becomes the view of this number
    if (trace === null) this.slots.splice(index); else this.slots[index] = new View(this, trace);
    this.current = this.views[0] ?? null;
    this.hide();
    const two = this.views.length > 1;
    this.lanes.className = two ? "lanes two" : "lanes";
    this.lanes.replaceChildren(...this.views.map(view => view.lane));
    for (const view of this.views) {
      view.figures.remove();
      if (two || this.options.lanes) view.lane.prepend(view.facts), view.lane.append(view.figures); else this.row.append(view.figures);
    }
    const rows = two || !this.views.length ? 1 : this.views[0].header.rows.length;
    this.chooser.replaceChildren(...Array.from({ length: rows }, (_, at) => make("option", { value: at }, `row ${at}`)));
    this.chooser.hidden = rows < 2;
    this.changed();
  }

  changed() {  // the steps of all views, and what is drawn of them
    this.steps = [...new Set(this.views.flatMap(view => view.steps))].sort((a, b) => a - b);
    if (!this.steps.length) this.steps = [0];
    this.slider.max = this.steps.length - 1;
    for (const sign of this.deck.querySelectorAll("[data-kind]"))
      sign.hidden = !this.views.some(view => view.trace.events.some(event => event.kind === sign.dataset.kind));
    this.histogram();
    this.go(this.follow ? this.steps.length - 1 : this.frame);
  }

  get views() { return this.slots.filter(Boolean); }

  get live() { return this.views.some(view => view.live); }

  // A stream tells more often than the eye sees: at most 30 frames a second are drawn.
  append(view, events) { view.append(events); this.touch(); }

  touch() {
    if (this.due) return;
    this.due = setTimeout(() => requestAnimationFrame(() => { if (this.due) this.refresh(); }), Math.max(0, FRAME - (performance.now() - (this.drawn ?? 0))));
  }

  refresh() { clearTimeout(this.due); this.due = 0; this.drawn = performance.now(); this.draws++; this.changed(); }

  finish(view, row) {  // the rows are whole: this one is set as a text
    view.trace.live = false;
    view.guesses.clear();
    view.load(row);
    this.chooser.value = row;
    this.refresh();
  }

  choose(row) { this.stop(); this.hide(); this.views[0].active = undefined; this.views[0].load(row); this.changed(); }

  histogram() {
    const [view] = this.views, n = this.steps.length - 1, bins = Math.min(n, 240), counts = Array.from({ length: bins }, () => [0, 0, 0]);
    const index = new Map(this.steps.map((step, at) => [step, at]));
    for (const event of view?.history.flat() ?? []) {
      const bin = counts[Math.min(bins - 1, Math.floor((index.get(event.step) - 1) / n * bins))];
      if (event.kind === "remasked") bin[1]++;
      else { bin[0]++; bin[2] += share(event.confidence); }
    }
    const most = Math.max(1, ...counts.map(bin => bin[0] + bin[1])), width = Math.min(0.8, bins / 50), bars = [];
    this.bars.setAttribute("viewBox", `0 0 ${Math.max(1, bins)} ${most}`);
    const rect = (bin, y, height, style, c) => {
      if (!height) return;
      const bar = drawing("rect", { x: bin + 1 - width / 2, y, width, height });
      Object.assign(bar.dataset, { frame: (bin + 1) / bins * n, style });
      bar.style.setProperty("--c", `${100 * c}%`);
      bars.push(bar);
    };
    counts.forEach(([plus, minus, sum], bin) => {
      rect(bin, most - plus, plus, "", plus ? sum / plus : 0);
      rect(bin, most - plus - minus, minus, "minus", 0);
    });
    this.bars.replaceChildren(...bars);
  }

  // ---- moving ----

  go(to) {
    this.frame = Math.max(0, Math.min(to, this.steps.length - 1));
    const step = this.steps[this.frame], part = this.frame / Math.max(1, this.steps.length - 1);
    for (const view of this.views) {
      if (view.picked.size && view.shown !== Math.min(step, view.last)) { view.picked.clear(); this.options.pick(view); }
      view.draw(step);
    }
    this.slider.value = this.frame;
    this.slider.style.setProperty("--done", `calc(8px + ${part} * (100% - 16px))`);
    this.slider.setAttribute("aria-valuetext", `step ${step} of ${this.steps.at(-1)}`);
    for (const bar of this.bars.children)
      bar.setAttribute("class", `${bar.dataset.style}${bar.dataset.frame <= this.frame + 1e-6 ? " past" : ""}`);
    if (this.open) this.show(...this.open);
    this.options.moved?.(this);
  }

  jump(to) { this.stop(); this.follow = to >= this.steps.length - 1; this.go(to); }

  toggle() {
    if (this.timer) return this.stop();
    if (this.frame === this.steps.length - 1) this.go(0);
    this.run();
  }

  run() {
    clearInterval(this.timer);
    this.follow = false;
    const each = Math.min(700, Math.max(40, 9000 / this.steps.length)) / RATES[this.rate];
    this.timer = setInterval(() => { if (this.frame >= this.steps.length - 1) this.stop(); else this.go(this.frame + 1); }, each);
    this.signs();
  }

  stop() {
    if (!this.timer) return;
    clearInterval(this.timer);
    this.timer = 0;
    this.signs();
    this.go(this.frame);
  }

  pace(by) {
    this.rate = Math.max(0, Math.min(RATES.length - 1, this.rate + by));
    if (this.timer) this.run(); else this.signs();
  }

  recolour() { this.root.classList.toggle("by-age"); this.signs(); }

  signs() {
    const age = this.root.classList.contains("by-age");
    this.play.querySelector("path").setAttribute("d", this.timer ? PATHS.pause : PATHS.play);
    this.play.setAttribute("aria-label", this.timer ? "pause" : "play");
    this.speed.textContent = `${RATES[this.rate]}×`;
    this.speed.setAttribute("aria-label", `speed ${RATES[this.rate]}×`);
    this.colour.textContent = `colour: ${age ? "age" : "confidence"}`;
    this.colour.setAttribute("aria-label", `colour: ${age ? "age" : "confidence"}`);
    this.least.textContent = age ? "old" : "unsure";
    this.most.textContent = age ? "new" : "sure";
  }

  // ---- the card ----

  show(view, at) {
    if (!view.cells[at] || !this.views.includes(view)) return this.hide();
    this.open = [view, at];
    this.card.replaceChildren(...view.card(at));
    this.card.hidden = false;
    const box = view.cells[at].ink.getBoundingClientRect(), size = this.card.getBoundingClientRect();
    const below = box.bottom + 10 + size.height < innerHeight;
    this.card.style.left = `${Math.max(8, Math.min(box.left, innerWidth - size.width - 8))}px`;
    this.card.style.top = `${below ? box.bottom + 10 : Math.max(8, box.top - size.height - 14)}px`;
  }

  hide() { this.open = null; this.card.hidden = true; }

  // ---- keys ----

  press(press) {
    const on = press.target, token = on.dataset?.at !== undefined, line = this.current?.header.columns ?? 1;
    const keys = {
      " ": () => this.toggle(), ArrowLeft: () => this.jump(this.frame - 1), ArrowRight: () => this.jump(this.frame + 1),
      Home: () => this.jump(0), End: () => this.jump(this.steps.length - 1), "+": () => this.pace(1), "=": () => this.pace(1), "-": () => this.pace(-1),
      ArrowUp: () => this.current.walk(-line), ArrowDown: () => this.current.walk(line), Escape: () => this.hide(), c: () => this.recolour(),
    };
    const field = /^(INPUT|TEXTAREA|SELECT)$/.test(on.tagName) && on !== this.slider;
    if (press.ctrlKey || press.metaKey || press.altKey || field || !this.current) return;
    if (/^(BUTTON|SUMMARY)$/.test(on.tagName) && (press.key === " " || press.key === "Enter")) return;
    if (token && this.options.pick && [" ", "Enter", "Delete", "Backspace"].includes(press.key)) this.current.pick(Number(on.dataset.at));
    else if (press.shiftKey && press.key.startsWith("Arrow")) this.current.walk(/Left|Up/.test(press.key) ? -1 : 1);
    else if (Object.hasOwn(keys, press.key)) keys[press.key]();
    else return;
    press.preventDefault();
  }

  listen() {
    document.addEventListener("keydown", press => this.press(press));
    this.slider.addEventListener("input", () => this.jump(Number(this.slider.value)));
    this.chooser.addEventListener("change", () => this.choose(Number(this.chooser.value)));
    addEventListener("scroll", () => this.hide(), { passive: true });
  }
}
