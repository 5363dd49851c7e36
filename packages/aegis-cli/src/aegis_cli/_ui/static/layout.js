// Where the points and lines of the picture are. No part of it touches the document.

const TITLE = 24;  // height of a region's name
const PAD = 12;

// The column of each point: one more than that of its callers, but without going in circles. Points
// with the same services have the same column, and keep it for as long as the page is open once
// somebody calls or is called by them, so that nothing jumps.
export function rank(points, lines, known) {
  const kindOf = new Map(points.map((p) => [p.key, p.services.join("\n") || p.key]));
  const kinds = [...new Set(kindOf.values())], calls = new Map(kinds.map((kind) => [kind, new Set()]));
  const busy = new Set(), called = new Set();
  for (const line of lines) {
    const from = kindOf.get(line.from), to = kindOf.get(line.to);
    if (from === undefined || to === undefined) continue;
    busy.add(from).add(to);
    if (from === to) continue;
    calls.get(from).add(to);
    called.add(to);
  }
  const found = new Map(), path = new Set();
  const visit = (kind, column) => {
    if (path.has(kind) || (found.get(kind) ?? -1) >= column) return;  // a circle, or no news
    found.set(kind, column);
    path.add(kind);
    for (const next of [...calls.get(kind)].sort()) visit(next, Math.min(column + 1, 3));
    path.delete(kind);
  };
  for (const kind of kinds.sort()) if (!called.has(kind)) visit(kind, 0);
  for (const kind of kinds) if (!found.has(kind)) visit(kind, 0);
  for (const p of points) {
    const kind = kindOf.get(p.key);
    if (known.has(kind)) continue;
    if (busy.has(kind)) known.set(kind, found.get(kind));
    else found.set(kind, p.services.length ? 1 : 0);
  }
  return new Map(points.map((p) => [p.key, known.get(kindOf.get(p.key)) ?? found.get(kindOf.get(p.key))]));
}

// Groups are bands below each other. In a wide picture calls go to the right, else down.
export function place(points, ranks, width) {
  const groups = new Map();
  for (const p of points) {
    const name = p.client ? "clients" : p.group || "(no region)", key = `${p.client} ${p.group}`;
    if (!groups.has(key)) groups.set(key, { name, members: [] });
    groups.get(key).members.push(p);
  }
  const used = [...new Set(ranks.values())].sort();
  return width < 620 ? narrow(groups, ranks, used, width) : wide(groups, ranks, used, width);
}

function wide(groups, ranks, used, width) {
  const box = { w: 172, h: 48 }, inner = 22, gap = 84, row = box.h + 14;
  const most = new Map();  // points of a rank in any group
  for (const { members } of groups.values()) {
    for (const rank of used) {
      const n = members.filter((p) => ranks.get(p.key) === rank).length;
      most.set(rank, Math.max(most.get(rank) ?? 0, n));
    }
  }
  const room = width - 2 * PAD - 16;
  let rows = 4, columns;
  const size = () => {
    columns = used.map((rank) => Math.max(1, Math.ceil(most.get(rank) / rows)));
    const all = columns.reduce((a, b) => a + b, 0);
    return all * box.w + (all - columns.length) * inner + (columns.length - 1) * gap;
  };
  while (size() > room && rows < 1000) rows++;
  const spare = Math.max(0, room - size()) / Math.max(1, columns.length - 1);
  const between = gap + Math.min(spare, 190);
  const left = Math.max(0, (room - size() - (between - gap) * (columns.length - 1)) / 2);
  const at = new Map(), bands = [];
  let top = 2;
  for (const { name, members } of groups.values()) {
    let x = PAD + 8 + left, tallest = 0;
    const counts = used.map((rank) => members.filter((p) => ranks.get(p.key) === rank));
    const needed = Math.max(...counts.map((list, i) => Math.ceil(list.length / columns[i])));
    counts.forEach((list, i) => {
      const high = Math.max(1, Math.ceil(list.length / columns[i]));
      list.forEach((p, n) => {
        const down = n % high, right = Math.floor(n / high);
        const shift = (needed - Math.min(high, list.length)) * row / 2;
        at.set(p.key, { x: x + right * (box.w + inner), y: top + TITLE + 6 + shift + down * row, ...box });
        tallest = Math.max(tallest, needed);
      });
      x += columns[i] * box.w + (columns[i] - 1) * inner + between;
    });
    const h = TITLE + tallest * row + 2;
    bands.push({ name, x: 2, y: top, w: width - 4, h });
    top += h + 12;
  }
  return { at, bands, width, height: top, down: false };
}

function narrow(groups, ranks, used, width) {
  const perRow = width < 300 ? 1 : 2, gap = 16;
  const box = { w: (width - 2 * PAD - (perRow - 1) * gap) / perRow, h: 48 };
  const at = new Map(), bands = [];
  let top = 2;
  for (const { name, members } of groups.values()) {
    let y = top + TITLE + 6, first = true;
    for (const rank of used) {
      const list = members.filter((p) => ranks.get(p.key) === rank);
      if (!list.length) continue;
      if (!first) y += 34;  // room for the lines
      first = false;
      list.forEach((p, n) => {
        const alone = list.length === 1 ? (width - 2 * PAD - box.w) / 2 : 0;
        const x = PAD + alone + (n % perRow) * (box.w + gap);
        at.set(p.key, { x, y: y + Math.floor(n / perRow) * (box.h + 14), ...box });
      });
      y += Math.ceil(list.length / perRow) * (box.h + 14);
    }
    bands.push({ name, x: 2, y: top, w: width - 4, h: y - top });
    top = y + 12;
  }
  return { at, bands, width, height: top, down: true };
}

// The curve of a line, as the four points of a cubic.
export function curve(a, b, down, shift) {
  if (a === b) {
    const x = a.x + a.w, y = a.y + 14;
    return [[x, y], [x + 40, y - 26], [x + 40, y + 40], [x, y + 22]];
  }
  if (down) {
    const ax = a.x + a.w / 2 + shift, bx = b.x + b.w / 2 + shift;
    if (b.y > a.y + a.h) {
      const bend = Math.min(60, (b.y - a.y - a.h) / 2 + 8);
      return [[ax, a.y + a.h], [ax, a.y + a.h + bend], [bx, b.y - bend], [bx, b.y]];
    }
    if (b.y + b.h < a.y) {
      const bend = Math.min(60, (a.y - b.y - b.h) / 2 + 8);
      return [[ax, a.y], [ax, a.y - bend], [bx, b.y + b.h + bend], [bx, b.y + b.h]];
    }
    const [l, r] = a.x < b.x ? [a, b] : [b, a];
    const y = a.y + a.h / 2 + shift;
    const ends = [[l.x + l.w, y], [l.x + l.w + 4, y], [r.x - 4, y], [r.x, y]];
    return a === l ? ends : ends.reverse();
  }
  const ay = a.y + a.h / 2 + shift, by = b.y + b.h / 2 + shift;
  if (b.x >= a.x + a.w) {
    const bend = Math.max(30, (b.x - a.x - a.w) / 2);
    return [[a.x + a.w, ay], [a.x + a.w + bend, ay], [b.x - bend, by], [b.x, by]];
  }
  if (b.x + b.w <= a.x) {
    const bend = Math.max(30, (a.x - b.x - b.w) / 2);
    return [[a.x, ay], [a.x - bend, ay], [b.x + b.w + bend, by], [b.x + b.w, by]];
  }
  const x = Math.max(a.x + a.w, b.x + b.w), bulge = 34 + Math.min(40, Math.abs(ay - by) / 8);
  return [[a.x + a.w, ay], [x + bulge, ay], [x + bulge, by], [b.x + b.w, by]];
}

export function along([p, q, r, s], t) {
  const u = 1 - t;
  return [0, 1].map((i) =>
    u * u * u * p[i] + 3 * u * u * t * q[i] + 3 * u * t * t * r[i] + t * t * t * s[i]);
}

// Places for labels that cover neither boxes nor each other; null where there is none.
export function labels(wanted, boxes, width) {
  const taken = [...boxes];
  return wanted.map(({ points, text }) => {
    const w = text.length * 6.5 + 8, h = 16;
    for (const t of [.5, .42, .58, .34, .66, .26, .74, .18, .82]) {
      const [x, y] = along(points, t);
      const one = { x: x - w / 2, y: y - h / 2, w, h };
      if (one.x < 4 || one.x + w > width - 4) continue;
      if (taken.some((o) => one.x < o.x + o.w && o.x < one.x + w && one.y < o.y + o.h && o.y < one.y + h)) continue;
      taken.push(one);
      return [x, y, w];
    }
    return null;
  });
}

// The point that an arrow key leads to.
export function neighbour(at, from, key) {
  const [dx, dy] = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] }[key];
  const a = at.get(from);
  let best = null, least = Infinity;
  for (const [other, b] of at) {
    const x = b.x + b.w / 2 - a.x - a.w / 2, y = b.y - a.y;
    const ahead = x * dx + y * dy, aside = Math.abs(x * dy) + Math.abs(y * dx);
    if (other === from || ahead <= 1) continue;
    const cost = ahead + 2.5 * aside;
    if (cost < least) [best, least] = [other, cost];
  }
  return best;
}
