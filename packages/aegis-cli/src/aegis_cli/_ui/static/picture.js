// The picture: drawn once, and changed in place at each update.
import { curve, labels, neighbour, place, rank } from "./layout.js";
import { element, failures, latency, mark, percent, rate, style, write } from "./tables.js";

const SVG = "http://www.w3.org/2000/svg";
const svg = document.getElementById("svg"), detail = document.getElementById("detail");
const known = new Map();  // the columns of points
const points = new Map(), lines = new Map();  // drawn groups by their keys
let state = null, layout = null, shape = "", picked = null, shown = null, onFind = () => {};

function make(parent, name, attributes = {}) {
  const made = document.createElementNS(SVG, name);
  set(made, attributes);
  return parent.appendChild(made);
}

function set(node, attributes) {
  for (const [key, value] of Object.entries(attributes)) {
    const text = String(value);
    if (node.getAttribute(key) !== text) node.setAttribute(key, text);
  }
}

// A text that fits, with an ellipsis if it is cut.
function fit(node, text, width) {
  if (node.dataset.text === text && node.dataset.width === String(width)) return;
  node.dataset.text = text;
  node.dataset.width = width;
  node.textContent = text;
  const measured = node.getComputedTextLength();
  if (measured <= width) return;
  let length = Math.max(1, Math.floor(text.length * width / measured) - 1);
  node.textContent = `${text.slice(0, length)}…`;
  while (length > 1 && node.getComputedTextLength() > width) node.textContent = `${text.slice(0, --length)}…`;
}

export function start(find) {
  onFind = find;
  new ResizeObserver(() => state && draw(state)).observe(document.getElementById("drawing"));
  svg.addEventListener("keydown", onKey);
  svg.addEventListener("click", (event) => { if (event.target === svg) pick(null); });
}

export function draw(next) {
  state = next;
  const room = document.getElementById("drawing").clientWidth;
  if (!room) return;  // another tab is open
  const picture = state.picture, zoom = room >= 620 && picture.points.length <= 8 ? 1.3 : 1;
  const width = Math.floor((room - (room < 620 ? 12 : 20)) / zoom);
  const ranks = rank(picture.points, picture.lines, known);
  const now = JSON.stringify([width, picture.points.map((p) => [p.key, p.group, ranks.get(p.key)])]);
  if (now !== shape) {
    shape = now;
    layout = place(picture.points, ranks, width);
    set(svg, { viewBox: `0 0 ${layout.width} ${layout.height}`, height: layout.height * zoom });
    drawBands();
  }
  drawPoints(picture.points);
  drawLines(picture.lines);
  const by = shown ?? picked;
  if (by && !points.has(by) && !lines.has(by)) { picked = shown = null; }
  emphasize();
}

function drawBands() {
  const parent = document.getElementById("bands");
  parent.replaceChildren();
  for (const band of layout.bands) {
    if (layout.bands.length === 1 && band.name === "(no region)") continue;
    make(parent, "rect", { class: "band", x: band.x, y: band.y, width: band.w, height: band.h, rx: 10 });
    const name = make(parent, "text", { class: "band-name", x: band.x + 12, y: band.y + 18 });
    fit(name, band.name, band.w - 24);
  }
}

function drawPoints(list) {
  const parent = document.getElementById("points"), gone = new Set(points.keys());
  for (const point of list) {
    gone.delete(point.key);
    const { x, y, w, h } = layout.at.get(point.key);
    let group = points.get(point.key)?.group;
    if (!group) {
      group = make(parent, "g", { class: "point", role: "button", tabindex: -1, "data-key": point.key });
      for (const kind of ["fold", "box", "ring"]) make(group, "rect", { class: kind });
      make(group, "text", { class: "title" });
      make(group, "text", { class: "sub" });
      listen(group, point.key);
    }
    points.set(point.key, { group, point });
    const [fold, box, ring, title, sub] = group.children;
    const kind = point.client ? "client" : style(point.state) === "ok" ? "" : style(point.state);
    const radius = point.client ? h / 2 : 7;
    set(group, { transform: `translate(${x} ${y})`, "aria-label": describe(point) });
    set(fold, { x: 5, y: -5, width: w - 1, height: h, rx: radius, visibility: point.nodes > 1 && !point.client ? "visible" : "hidden" });
    set(box, { class: `box ${kind}`, width: w, height: h, rx: radius });
    set(ring, { x: -4, y: -4, width: w + 8, height: h + 8, rx: radius + 4 });
    const inset = point.client ? 18 : 11;
    set(title, { x: inset, y: 20 });
    set(sub, { x: inset, y: 37, class: `sub ${point.wrong ? style(point.state) : ""}` });
    const many = point.nodes > 1 && !point.client;
    fit(title, many ? `${point.title} ×${point.nodes}` : point.title, w - 2 * inset);
    fit(sub, under(point), w - 2 * inset);
  }
  for (const key of gone) { points.get(key).group.remove(); points.delete(key); }
  rove([...points.values()].map((one) => one.group));
}

function under(point) {
  if (point.client) return "client";
  const many = point.nodes > 1 || point.workers;
  const state = point.wrong ? `${mark(point.state)}${many ? `${point.wrong} ` : ""}${point.state}` : "";
  const workers = point.workers ? `${point.workers} workers` : "";
  const services = point.nodes > 1 ? "" : point.services.join(", ");
  return [state, services, workers].filter(Boolean).join(" · ") || (point.nodes > 1 ? "all well" : "no services");
}

function describe(point) {
  const calls = state.picture.lines.filter((line) => line.from === point.key || line.to === point.key);
  const bad = calls.filter((line) => line.wrong).length;
  return `${point.title}${point.nodes > 1 ? `, ${point.nodes} nodes` : ""}, ${point.state}`
    + (point.wrong && point.nodes > 1 ? `, ${point.wrong} not well` : "")
    + (point.services.length ? `, provides ${point.services.slice(0, 5).join(", ")}` : "")
    + (point.group ? `, in ${point.group}` : "") + `, ${calls.length} lines of calls`
    + (bad ? `, ${bad} with failures` : "");
}

function drawLines(list) {
  const parent = document.getElementById("lines"), gone = new Set(lines.keys());
  const pairs = new Set(list.map((line) => `${line.from} ${line.to}`));
  const wanted = [], widest = list.length > 12 ? 3.6 : 5.6, most = Math.max(1, ...list.map((line) => line.calls_per_second));
  for (const line of list) {
    const a = layout.at.get(line.from), b = layout.at.get(line.to);
    if (!a || !b) continue;
    const key = `${line.from} ${line.to}`;
    gone.delete(key);
    const both = pairs.has(`${line.to} ${line.from}`) && line.from !== line.to;
    const ends = curve(a, b, layout.down, both ? (line.from < line.to ? -8 : 8) : 0);
    let group = lines.get(key)?.group;
    if (!group) {
      group = make(parent, "g", { role: "button", tabindex: -1, "data-key": key });
      make(group, "path", { class: "hit" });
      make(group, "path");
      listen(group, key);
    }
    lines.set(key, { group, line });
    const kind = line.wrong ? "bad" : line.calls_per_second ? "" : "idle";
    const d = `M${ends[0]}C${ends.slice(1).join(" ")}`;
    set(group, { class: `edge ${kind}`, "aria-label": sentence(line) });
    set(group.children[0], { d });
    set(group.children[1], {
      d, class: `line ${kind}`, "marker-end": `url(#arrow${line.wrong ? "-bad" : ""})`,
      "stroke-width": (1.4 + widest * Math.sqrt(line.calls_per_second / most) + (line.wrong ? 0.8 : 0)).toFixed(1),
    });
    wanted.push({ key, points: ends, line, text: (line.wrong ? "✕ " : "") + words(line) });
  }
  for (const key of gone) { lines.get(key).group.remove(); lines.delete(key); }
  rove([...lines.values()].map((one) => one.group));
  drawLabels(wanted);
}

const words = (line) => `${rate(line.calls_per_second)}/s`
  + (line.success === null ? "" : ` ${percent(line.success)}`);

// Labels of all lines if there are few, else of those that fail; what is worst gets its place first.
function drawLabels(wanted) {
  const parent = document.getElementById("labels");
  const chosen = wanted.filter(({ line }) => line.wrong || (wanted.length <= 24 && line.calls_per_second));
  const at = labels(chosen, [...layout.at.values()], layout.width);
  const had = new Map([...parent.children].map((label) => [label.dataset.key, label]));
  chosen.forEach(({ key, line, text }, n) => {
    if (!at[n]) return;
    let label = had.get(key);
    if (!label) {
      label = make(parent, "g", { "data-key": key });
      make(label, "rect", { class: "under", rx: 4 });
      make(label, "text");
    }
    had.delete(key);
    const [x, y, width] = at[n];
    set(label, { class: line.wrong ? "bad" : "", transform: `translate(${x.toFixed(1)} ${y.toFixed(1)})` });
    set(label.firstChild, { x: -width / 2, y: -8, width, height: 16 });
    set(label.lastChild, { y: 4 });
    write(label.lastChild, text);
  });
  for (const label of had.values()) label.remove();
}

const titleOf = (key) => points.get(key)?.point.title ?? "?";
const sentence = (line) => `${titleOf(line.from)} calls ${titleOf(line.to)}: ${rate(line.calls_per_second)} calls a second, `
  + `${percent(line.success)} succeed, p50 ${latency(line.p50_ms)}, p99 ${latency(line.p99_ms)}`
  + (Object.keys(line.failed).length ? `, failed with ${failures(line.failed)}` : "");

// One element of each kind can be reached by the Tab key; arrows lead to the others.
function rove(groups) {
  if (groups.length && !groups.some((group) => group.getAttribute("tabindex") === "0")) set(groups[0], { tabindex: 0 });
}

function listen(group, key) {
  group.addEventListener("pointerenter", () => { shown = key; emphasize(); });
  group.addEventListener("pointerleave", () => { shown = null; emphasize(); });
  group.addEventListener("focus", () => {
    for (const { group: other } of (points.has(key) ? points : lines).values()) set(other, { tabindex: other === group ? 0 : -1 });
    if (group.matches(":focus-visible")) { shown = key; emphasize(); }
  });
  group.addEventListener("blur", () => { shown = null; emphasize(); });
  group.addEventListener("click", () => open(key));
}

function open(key) {
  const point = points.get(key)?.point;
  if (point && point.nodes > 1 && point.find && point.find !== state.query) onFind(point.find);
  else pick(picked === key ? null : key);
}

export function pick(key) {
  const had = picked;
  picked = key;
  emphasize();
  return had;
}

function onKey(event) {
  const key = event.target.dataset?.key;
  if (!key) return;
  if (event.key === "Enter" || event.key === " ") { event.preventDefault(); open(key); return; }
  if (!event.key.startsWith("Arrow")) return;
  event.preventDefault();
  if (points.has(key)) {
    const next = neighbour(layout.at, key, event.key);
    if (next) points.get(next)?.group.focus();
  } else {
    const keys = state.picture.lines.map((line) => `${line.from} ${line.to}`).filter((one) => lines.has(one));
    const step = event.key === "ArrowRight" || event.key === "ArrowDown" ? 1 : -1;
    lines.get(keys[(keys.indexOf(key) + step + keys.length) % keys.length])?.group.focus();
  }
}

// What the pointer or the keyboard is at, or else what was picked, stands out and is described.
function emphasize() {
  const key = shown ?? picked, near = new Set(), on = new Set(key ? [key] : []);
  for (const [id, { line }] of lines) {
    if (id === key) { near.add(line.from).add(line.to); }
    if (line.from === key || line.to === key) { on.add(id); near.add(line.from).add(line.to); }
  }
  svg.classList.toggle("picked", Boolean(key));
  for (const [id, { group }] of points) { group.classList.toggle("on", on.has(id)); group.classList.toggle("near", near.has(id)); }
  for (const [id, { group }] of lines) group.classList.toggle("on", on.has(id));
  for (const label of document.getElementById("labels").children) label.classList.toggle("on", on.has(label.dataset.key));
  explain(key);
}

function explain(key) {
  const parts = [], point = points.get(key)?.point, line = lines.get(key)?.line;
  if (line) {
    parts.push(["h3", `${titleOf(line.from)} → ${titleOf(line.to)}`], ["p", numbers(line)]);
  } else if (point) {
    const node = state.nodes.find((one) => one.id === point.title);
    const by = node?.by.length ? `, by ${node.by.join(", ")}` : "";
    parts.push(["h3", `${point.title}${point.nodes > 1 ? ` ×${point.nodes}` : ""}`]);
    parts.push(["p", [
      mark(point.state) + (point.wrong && point.nodes > 1 ? `${point.wrong} ` : "") + point.state + (node?.for ? ` for ${node.for}` : "") + by,
      point.services.join(", "), node?.place || point.group, node?.address,
      node?.certificate && `certificate ends in ${node.certificate}`,
      node && point.wrong && `aegis mesh why ${node.id} tells more`,
      point.nodes > 1 && "Enter or a click shows each node",
    ].filter(Boolean).join(" · ")]);
    const calls = state.picture.lines.filter((one) => one.from === key || one.to === key);
    parts.push(["ul", calls.slice(0, 12).map((one) =>
      [`${one.from === key ? "→" : "←"} ${titleOf(one.from === key ? one.to : one.from)}: ${numbers(one)}`, one.wrong ? "bad" : ""])]);
  } else {
    const { points: all, lines_left_out: left, folded } = state.picture;
    parts.push(["p", folded ? "Nodes of a region with the same services are one box; a click or Enter shows each of them."
      : all.length ? "Point at a node or a line, or move there by Tab and the arrow keys, for its numbers." : "Nothing fits the filter."]);
    if (left) parts.push(["p", `${left} lines with few calls are left out; the table of calls has more.`]);
  }
  const text = JSON.stringify(parts);
  if (detail.dataset.text === text) return;
  detail.dataset.text = text;
  detail.replaceChildren(...parts.map(([name, words]) => name !== "ul" ? element(name, {}, words)
    : element("ul", {}, ...words.map(([one, kind]) => element("li", { class: kind }, one)))));
}

const numbers = (line) => `${line.wrong ? "✕ " : ""}${rate(line.calls_per_second)} calls/s, ${percent(line.success)} succeed, `
  + `p50 ${latency(line.p50_ms)}, p99 ${latency(line.p99_ms)}`
  + (Object.keys(line.failed).length ? `; failed: ${failures(line.failed)}` : "");
