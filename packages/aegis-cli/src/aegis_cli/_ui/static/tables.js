// The tables, and how numbers and states are written. Texts of peers become text nodes only.

export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== false) made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

export const percent = (share) => share === null || share === undefined ? "–"
  : share === 1 ? "100%" : `${+Math.min(share * 100, 99.99).toFixed(2)}%`;
export const rate = (value) => value >= 100 ? value.toFixed(0) : value.toFixed(1);
export const latency = (ms) => ms === null || ms === undefined ? "–"
  : ms < 1000 ? `${ms < 10 ? ms.toFixed(1) : ms.toFixed(0)} ms` : `${(ms / 1000).toFixed(1)} s`;
export const clock = (text) => text ? text.slice(11, 19) : "?";
export const when = (text) => text ? `${text.slice(0, 10)} ${text.slice(11, 19)}` : "?";

export function span(seconds) {
  for (const [unit, size] of [["d", 86400], ["h", 3600], ["m", 60]]) {
    if (seconds >= size) return `${Math.floor(seconds / size)}${unit}`;
  }
  return `${Math.max(0, Math.floor(seconds))}s`;
}

const STYLES = {
  failed: "bad", unhealthy: "bad", revoked: "bad", expired: "bad", red: "bad",
  suspected: "warn", unreachable: "warn", unknown: "warn", yellow: "warn", due: "warn", left: "warn",
  forgotten: "warn", alive: "ok", healthy: "ok", green: "ok", ok: "ok", recovered: "ok", joined: "ok",
};
export const style = (state) => STYLES[state] ?? "";
export const mark = (state) => ({ bad: "✕ ", warn: "! " })[style(state)] ?? "";
export const failures = (failed) => Object.entries(failed).map(([code, n]) => `${code} ${n}`).join(", ");

const numbers = [
  ["Calls/s", "r", (row) => rate(row.calls_per_second)],
  ["Success", "r", (row) => [
    percent(row.success) + (row.success !== null && row.success < .99 ? " ✕" : ""),
    row.success === null ? "" : row.success < .99 ? "bad" : "ok",
    failures(row.failed)]],
  ["p50", "r o", (row) => latency(row.p50_ms)],
  ["p99", "r", (row) => latency(row.p99_ms)],
];

// Title, class of the column, and the text of a cell, or [text, class, tooltip].
const TABLES = {
  services: {
    key: (row) => row.name,
    level: (row) => row.ready === 0 || (row.success !== null && row.success < .99) ? "bad" : row.wrong ? "warn" : "",
    none: "No service.",
    columns: [
      ["Service", "f", (row) => row.name],
      ["Ready", "r", (row) => [`${row.ready} of ${row.total}`, row.ready === 0 ? "bad" : row.ready < row.total ? "warn" : "ok"]],
      ...numbers,
      ["Providers", "o", (row) => {
        const ids = row.providers.slice(0, 6).map((p) => p.status !== "alive" ? `${p.id} (${p.status})`
          : p.health === "unhealthy" ? `${p.id} (unhealthy)` : p.id);
        const more = row.total - ids.length;
        return ids.join(", ") + (more > 0 ? ` and ${more} more` : "") || "–";
      }],
      ["Avoided", "o", (row) => [row.avoided.map((a) => `${a.provider} ${a.state} by ${a.caller}`).join(", ") || "–",
        row.avoided.length ? "warn" : ""]],
    ],
  },
  calls: {
    key: (row) => `${row.caller}\n${row.service}\n${row.provider}`,
    level: (row) => row.wrong ? "bad" : "",
    none: "No calls.",
    columns: [
      ["Caller", "f", (row) => row.caller],
      ["Service", "o", (row) => row.service || "–"],
      ["Provider", "f", (row) => row.provider || "–"],
      ...numbers,
      ["Failed with", "o", (row) => [failures(row.failed) || "–", row.wrong ? "bad" : ""]],
    ],
  },
  nodes: {
    key: (row) => row.id,
    level: (row) => row.wrong ? style(row.state) || "warn" : "",
    none: "No node.",
    columns: [
      ["Node", "f", (row) => row.id],
      ["Status", "", (row) => [
        mark(row.state) + row.state + (row.for ? ` ${row.for}` : "") + (row.by.length ? `, by ${row.by.slice(0, 3).join(", ")}` : ""),
        style(row.state)]],
      ["Services", "", (row) => row.services.join(", ") || "–"],
      ["Where", "o", (row) => row.place || "–"],
      ["Address", "k o", (row) => row.address || "–"],
      ["Cert", "r", (row) => [row.certificate ?? `by ${row.vouched_by ?? "?"}`, style(row.certificate_state)]],
      ["Note", "o", (row) => [row.unanswered ? `no counts: ${row.unanswered}` : "", "warn"]],
    ],
  },
  events: {
    key: (row) => `${row.number} ${row.at}`,
    level: (row) => style(row.kind) === "bad" ? "bad" : "",
    none: "No events.",
    columns: [
      ["UTC", "k", (row) => when(row.at)],
      ["Event", "e", (row) => [mark(row.kind) + row.kind, style(row.kind)]],
      ["Node", "f", (row) => row.node_id || "–"],
      ["What", "", (row) => [row.what, row.by.length ? `by ${row.by.join(", ")}` : ""].filter(Boolean).join("; ")],
    ],
  },
  certs: {
    rows: "certificates",
    key: (row) => row.name,
    level: (row) => row.state === "ok" ? "" : style(row.state),
    none: "No certificate.",
    columns: [
      ["Certificate", "f", (row) => row.name],
      ["Ends in", "r", (row) => [
        mark(row.state) + (row.seconds_left > 0 ? span(row.seconds_left) : "expired"), style(row.state)]],
      ["Ends at (UTC)", "k", (row) => when(row.not_after)],
      ["Issuer", "o", (row) => row.issuer],
    ],
  },
};

export const wrongRows = (name, state) => rowsOf(name, state).filter((row) => TABLES[name].level(row) === "bad").length;
const rowsOf = (name, state) => state[TABLES[name].rows ?? name];

// Rows are kept by their keys, so that focus and selection survive an update.
export function showTable(name, state, find) {
  const { key, level, columns, none } = TABLES[name];
  const panel = document.getElementById(name);
  const rows = rowsOf(name, state);
  if (!panel.firstChild) {
    const heads = columns.map(([title, kind]) => element("th", { scope: "col", class: kind }, title));
    panel.append(
      element("table", {}, element("caption"), element("thead", {}, element("tr", {}, ...heads)), element("tbody")),
      element("p", { class: "none" }, none));
  }
  const [table, nothing] = panel.children;
  table.hidden = !rows.length;
  nothing.hidden = Boolean(rows.length);
  const total = state.rows[TABLES[name].rows ?? name];
  const window = state.seconds === null ? "since each node started" : `in the last ${state.seconds} s`;
  write(table.caption, [
    rows.length < total ? `The first ${rows.length} of ${total}, what is wrong first` : "What is wrong first",
    name === "events" ? `The newest first, as ${state.source} saw them`
      : name === "certs" ? "By what ends next"
        : name === "nodes" ? "" : `calls ${window}`,
  ].filter(Boolean).slice(name === "events" || name === "certs" ? 1 : 0).join("; "));
  const body = table.tBodies[0], had = new Map([...body.rows].map((row) => [row.dataset.key, row]));
  rows.forEach((row, n) => {
    const id = key(row);
    let line = had.get(id);
    if (line) had.delete(id);
    else {
      line = element("tr");
      line.dataset.key = id;
      for (const [, kind] of columns) {
        const cell = element("td", { class: kind });
        if (kind === "f") {
          const button = element("button", { class: "link", type: "button" });
          button.addEventListener("click", () => find(button.textContent));
          cell.append(button);
        }
        line.append(cell);
      }
    }
    if (body.rows[n] !== line) body.insertBefore(line, body.rows[n] ?? null);
    line.className = level(row) && `row-${level(row)}`;
    columns.forEach(([, kind, text], i) => {
      const found = text(row), [words, color, title] = Array.isArray(found) ? found : [found];
      const cell = line.cells[i];
      write(cell.firstElementChild ?? cell, words);
      cell.className = `${kind} ${color ?? ""}`;
      if (title) cell.title = title; else cell.removeAttribute("title");
    });
  });
  for (const line of had.values()) line.remove();
}

export function write(node, text) {
  if (node.textContent !== text) node.textContent = text;
}
