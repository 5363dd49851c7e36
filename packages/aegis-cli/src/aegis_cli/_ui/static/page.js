// Asks for the state of the mesh about once a second, and shows it.
import * as picture from "./picture.js";
import { clock, element, showTable, span, style, write, wrongRows } from "./tables.js";

const INTERVAL = 1000, PATIENCE = 10000;
const TABS = ["picture", "services", "calls", "nodes", "events", "certs"];
const byId = (id) => document.getElementById(id);
let state = null, tab = "picture", timer = 0, asked = 0, ended = "";

// The tab and the filter are in the address, so that the browser's Back button works.
function fromAddress() {
  const [name, query = ""] = location.hash.slice(1).split("?");
  tab = TABS.includes(name) ? name : "picture";
  let find = "";
  try { find = decodeURIComponent(query); } catch { /* not ours */ }
  if (byId("find").value.trim() !== find) byId("find").value = find;
  for (const one of TABS) {
    const button = byId(`tab-${one}`), chosen = one === tab;
    button.setAttribute("aria-selected", chosen);
    button.tabIndex = chosen ? 0 : -1;
    byId(one).hidden = !chosen;
  }
  if (state) show();
  poll();
}

function go(name, find, replace = false) {
  const hash = `#${name}${find ? `?${encodeURIComponent(find)}` : ""}`;
  if (hash === (location.hash || "#picture")) return;
  history[replace ? "replaceState" : "pushState"](null, "", hash);
  fromAddress();
}

const find = (text, name = tab) => go(name, text.trim());

async function poll() {
  clearTimeout(timer);
  if (ended) return;
  if (document.hidden) { timer = setTimeout(poll, INTERVAL); return; }
  const number = ++asked;
  try {
    const query = encodeURIComponent(byId("find").value.trim());
    const answer = await fetch(`state?find=${query}`, { signal: AbortSignal.timeout(PATIENCE) });
    if (number !== asked) return;  // a newer question is on its way
    if (answer.status === 401) {
      ended = "This page was closed on the other side: start `aegis ui` again and open its new address.";
    } else if (!answer.ok) {
      throw new Error(`it answers ${answer.status}`);
    } else {
      state = await answer.json();
      show();
    }
    if (ended) unreachable(ended);
  } catch {
    if (number === asked) unreachable("`aegis ui` does not answer, or has ended.");
  }
  if (number === asked) timer = setTimeout(poll, INTERVAL);
}

function unreachable(why) {
  const since = state ? ` This is from ${clock(state.taken_at)} UTC.` : "";
  stale(`${why}${since}`);
  write(byId("live"), "not live");
}

function stale(text) {
  document.body.classList.toggle("old", Boolean(text));
  byId("stale").hidden = !text;
  write(byId("stale"), text ? `STALE: ${text}` : "");
}

function show() {
  write(byId("mesh"), state.mesh);
  document.title = `${state.problems.total ? `(${state.problems.total}) ` : ""}Mesh ${state.mesh}`;
  const shown = state.counts.filter(([name]) => name !== "unhealthy").reduce((sum, [, n]) => sum + n, 0);
  const total = `${shown}${shown < state.total ? ` of ${state.total}` : ""} ${state.total === 1 ? "node" : "nodes"}`;
  byId("counts").replaceChildren(element("li", {}, total),
    ...state.counts.map(([name, n]) => element("li", { class: style(name) }, `${n} ${name}`)));
  write(byId("live"), state.stale_since ? "not live" : `live, ${clock(state.taken_at)} UTC, as ${state.source} sees it`);
  stale(state.stale_since && (`what you see is from ${clock(state.stale_since)} UTC, ${span(state.stale_for)} ago: `
    + (state.trouble || `${state.source} is silent`)));
  showProblems();
  write(byId("window"), (state.seconds === null ? "calls since each node started" : `calls of the last ${state.seconds} s`)
    + (state.left_out ? `; ${state.left_out} edges with few calls are not told` : ""));
  for (const name of TABS.slice(1)) {
    const wrong = wrongRows(name, state), button = byId(`tab-${name}`);
    if (!button.children.length) button.append(element("span", { class: "n" }));
    write(button.firstElementChild, wrong && name !== "events" ? `✕${wrong}` : "");
  }
  if (tab === "picture") picture.draw(state);
  else showTable(tab, state, find);
}

function showProblems() {
  const { listed, total } = state.problems, list = byId("problem-list");
  const text = JSON.stringify(state.problems);
  byId("problems").hidden = !total;
  byId("problems").classList.toggle("mild", !listed.some((one) => one.bad));
  if (list.dataset.text === text) return;
  list.dataset.text = text;
  const focused = document.activeElement?.dataset?.find;
  list.replaceChildren(...listed.map((one) => {
    const button = element("button", { class: "link", type: "button" }, one.text);
    button.dataset.find = `${one.tab} ${one.find}`;
    button.addEventListener("click", () => find(one.find, one.tab));
    return element("li", { class: one.bad ? "bad" : "warn" }, button);
  }));
  if (total > listed.length) list.append(element("li", { class: "more" }, `and ${total - listed.length} more`));
  if (focused) [...list.querySelectorAll("button")].find((one) => one.dataset.find === focused)?.focus();
}

byId("tabs").addEventListener("click", (event) => {
  const name = event.target.closest("button")?.getAttribute("aria-controls");
  if (name) go(name, byId("find").value.trim());
});
byId("tabs").addEventListener("keydown", (event) => {
  const at = TABS.indexOf(tab), last = TABS.length - 1;
  const next = { ArrowRight: at === last ? 0 : at + 1, ArrowLeft: at ? at - 1 : last, Home: 0, End: last }[event.key];
  if (next === undefined) return;
  event.preventDefault();
  go(TABS[next], byId("find").value.trim());
  byId(`tab-${TABS[next]}`).focus();
});
byId("find").addEventListener("input", () => go(tab, byId("find").value.trim(), true));
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  if (!picture.pick(null) && byId("find").value) { byId("find").value = ""; find(""); }
});
document.addEventListener("visibilitychange", () => { if (!document.hidden) poll(); });
addEventListener("popstate", fromAddress);
addEventListener("hashchange", fromAddress);
picture.start((text) => find(text));
fromAddress();
