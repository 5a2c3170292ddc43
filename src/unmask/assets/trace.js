"use strict";
// A page that plays one trace, which it holds. The address has the row and the step, so that it can be shared.

const { header, events, play } = JSON.parse(document.getElementById("trace").textContent);
const wish = new URLSearchParams(location.hash.slice(1));
const moved = ({ timer, views: [view] }) => {
  if (timer || !view) return;
  try { history.replaceState(null, "", `#row=${view.number}&step=${view.shown}`); } catch { /* a frame without an address */ }
};
const player = new Player(document.getElementById("player"), { moved });
for (const [name, value] of [["", header.checkpoint], ["policy ", header.policy], ["seed ", header.seed], ["blocks of ", header.block_size]])
  if (value !== null && value !== "") document.getElementById("facts").append(make("span", {}, name, make("b", {}, String(value))));
document.title = ["unmask", header.checkpoint, header.policy].filter(Boolean).join(" · ");
player.set(0, { header, events });
player.chooser.value = Math.min(Number(wish.get("row")) || 0, header.rows.length - 1);
player.choose(Number(player.chooser.value));
player.go(player.steps.findLastIndex(step => step <= (Number(wish.get("step")) || 0)));
if (play) {
  if (matchMedia("(prefers-reduced-motion: reduce)").matches) player.go(player.steps.length - 1); else player.run();
}
