// Chart of one picture in the browser: drawn, read out and turned. Plain SVG, no dependencies, one module.
// `content` is gdrop_viz.plots.picture.Picture as JSON; everything from it is set as text, never as HTML.

const DASHES = ["none", "7 4", "2 3", "8 3 2 3", "12 5", "5 3 2 3 2 3", "1 2", "6 6"];
const VIRIDIS = [
  "#440154", "#48186a", "#472d7b", "#424086", "#3b528b", "#33638d", "#2c728e", "#26828e", "#21918c",
  "#1fa088", "#28ae80", "#3fbc73", "#5ec962", "#84d44b", "#addc30", "#d8e219", "#fde725",
].map((hex) => [1, 3, 5].map((k) => parseInt(hex.slice(k, k + 2), 16)));
const POINTER_REACH = 40; // px: farther away the pointer reads out nothing

// ---- small helpers ----------------------------------------------------------------------------------------------

function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function svg(tag, attributes = {}, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

const text = (x, y, content, attributes = {}) => svg("text", { x, y, ...attributes }, content);

/** The name of an axis, in smaller type where it would not fit. */
function axisName(x, y, label, room, attributes = {}) {
  const size = Math.min(12, (12 * room) / (6.3 * Math.max(1, label.length)));
  return text(x, y, label, { "text-anchor": "middle", class: "gdv-axis", style: `font-size: ${size.toFixed(1)}px`, ...attributes });
}

function number(value) {
  if (value === null || value === undefined) return "none";
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-4 || size >= 1e6)) return value.toExponential(2).replace(/\.?0+e/, "e");
  return String(Number(value.toPrecision(4)));
}

/** Map values to [0, 1] between the bounds, logarithmically if asked; linear up to `linear_below` around zero. */
function unit({ bounds: [low, high], log, linear_below: linear }) {
  if (!log) return (v) => (v - low) / (high - low);
  if (linear) {
    const bent = (v) => Math.sign(v) * (Math.abs(v) <= linear ? Math.abs(v) / linear : 1 + Math.log10(Math.abs(v) / linear));
    return (v) => (bent(v) - bent(low)) / (bent(high) - bent(low));
  }
  return (v) => (v > 0 ? Math.log(v / low) / Math.log(high / low) : -Infinity);
}

function ticksOf(axis, count) {
  if (axis.ticks) return axis.ticks;
  const [low, high] = axis.bounds;
  if (axis.log && axis.linear_below) {
    const sizes = Array.from({ length: 8 }, (_, k) => axis.linear_below * 10 ** k);
    const around = [...sizes.map((v) => -v).reverse(), 0, ...sizes];
    return around.filter((v) => v >= low && v <= high).map((v) => [v, number(v)]);
  }
  if (axis.log) {
    const ticks = [];
    const [first, last] = [Math.ceil(Math.log10(low) - 1e-9), Math.floor(Math.log10(high) + 1e-9)];
    const every = Math.max(1, Math.ceil((last - first + 1) / count));
    for (let k = first; k <= last; k += every) ticks.push([10 ** k, number(10 ** k)]);
    if (ticks.length > 1) return ticks;
    const between = [1, 2, 5].flatMap((m) => Array.from({ length: last - first + 2 }, (_, k) => m * 10 ** (first - 1 + k)));
    const inside = between.filter((v) => v >= low && v <= high).sort((p, q) => p - q);
    return (inside.length > 1 ? inside : [low, high]).map((v) => [v, number(v)]);
  }
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 5, 10].find((m) => m * power >= rough * 0.999) ?? 10);
  const ticks = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k++) ticks.push([k * step, number(k * step)]);
  return ticks;
}

function viridis(share) {
  const place = Math.min(1, Math.max(0, share)) * (VIRIDIS.length - 1);
  const k = Math.min(VIRIDIS.length - 2, Math.floor(place));
  const mixed = VIRIDIS[k].map((from, c) => Math.round(from + (place - k) * (VIRIDIS[k + 1][c] - from)));
  return `rgb(${mixed.join(",")})`;
}

function markerPath(style, x, y, r = 3.5) {
  switch (style % 8) {
    case 0: return `M${x - r},${y}a${r},${r} 0 1 0 ${2 * r},0a${r},${r} 0 1 0 ${-2 * r},0Z`;
    case 1: return `M${x - r},${y - r}h${2 * r}v${2 * r}h${-2 * r}Z`;
    case 2: return `M${x},${y - r - 1}L${x + r + 1},${y + r}H${x - r - 1}Z`;
    case 3: return `M${x},${y - r - 1}L${x + r + 1},${y}L${x},${y + r + 1}L${x - r - 1},${y}Z`;
    case 4: return `M${x},${y + r + 1}L${x + r + 1},${y - r}H${x - r - 1}Z`;
    case 5: return `M${x - r},${y - 1}h${r - 1}v${-r + 1}h2v${r - 1}h${r - 1}v2h${-r + 1}v${r - 1}h-2v${-r + 1}h${-r + 1}Z`;
    case 6: return `M${x - r},${y - r}L${x},${y - 1}L${x + r},${y - r}L${x + 1},${y}L${x + r},${y + r}L${x},${y + 1}L${x - r},${y + r}L${x - 1},${y}Z`;
    default: return `M${x},${y - r - 2}L${x + 1.5},${y - 1.5}H${x + r + 1}L${x + 2},${y + 1}L${x + 3},${y + r + 1}L${x},${y + 2}L${x - 3},${y + r + 1}L${x - 2},${y + 1}L${x - r - 1},${y - 1.5}H${x - 1.5}Z`;
  }
}

/** Split at missing values, so that a gap stays a gap. */
function runs(points) {
  const found = [[]];
  for (const point of points) {
    if (point.some((v) => v === null || !Number.isFinite(v))) found.push([]);
    else found[found.length - 1].push(point);
  }
  return found.filter((run) => run.length);
}

/** What a narrow chart writes of a label: its first line; the second says more than fits. */
const firstLine = (label) => label.split("\n")[0];

/** The marker of a style: shifted beyond the last hue, so that style and style + 8 differ. */
const markerOf = (style) => (style + Math.floor(style / 8)) % 8;

const polyline = (points) => points.map(([x, y], k) => `${k ? "L" : "M"}${x.toFixed(1)},${y.toFixed(1)}`).join("");

/** The borders between neighbouring cell centres, in the centres' own unit. */
function borders(centres) {
  if (centres.length === 1) return [centres[0] - 0.5, centres[0] + 0.5];
  const middle = centres.slice(1).map((v, k) => (v + centres[k]) / 2);
  return [2 * centres[0] - middle[0], ...middle, 2 * centres.at(-1) - middle.at(-1)];
}

// ---- the plane: axes, cells, series -----------------------------------------------------------------------------

function drawPlane(content, width, height, id) {
  const { x, y, cells } = content;
  const yTicks = ticksOf(y, Math.max(2, Math.floor(height / 50)));
  const longest = Math.max(...yTicks.map(([, label]) => label.length), 1);
  const xHeight = 40;
  const frame = { left: 28 + 6.4 * Math.min(longest, 22), top: 8, right: width - (cells ? 92 : 14), bottom: height - xHeight };
  const [ux, uy] = [unit(x), unit(y)];
  const px = (v) => frame.left + ux(v) * (frame.right - frame.left);
  const py = (v) => frame.bottom - uy(v) * (frame.bottom - frame.top);
  const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" });
  const clip = svg("clipPath", { id: `${id}-clip` }, svg("rect", {
    x: frame.left - 5, y: frame.top - 5, width: Math.max(0, frame.right - frame.left + 10), height: Math.max(0, frame.bottom - frame.top + 10),
  }));
  root.append(svg("defs", {}, clip));

  const grid = svg("g", { class: "gdv-grid" });
  const labels = svg("g", { class: "gdv-ticks" });
  let free = -Infinity; // where the next label of the x axis may begin: labels never overlap
  for (const [value, label] of ticksOf(x, Math.max(2, Math.floor((frame.right - frame.left) / 70)))) {
    const at = px(value);
    if (!cells) grid.append(svg("line", { x1: at, x2: at, y1: frame.top, y2: frame.bottom }));
    if (at - label.length * 3.2 < free) continue;
    free = at + label.length * 3.2 + 6;
    labels.append(text(at, frame.bottom + 15, label, { "text-anchor": "middle" }));
  }
  for (const [value, label] of yTicks) {
    if (!cells) grid.append(svg("line", { x1: frame.left, x2: frame.right, y1: py(value), y2: py(value) }));
    const shown = label.length > 22 ? `${label.slice(0, 21)}…` : label;
    labels.append(text(frame.left - 6, py(value) + 4, shown, { "text-anchor": "end" }));
  }
  const middle = (frame.top + frame.bottom) / 2;
  labels.append(
    axisName((frame.left + frame.right) / 2, height - 6, firstLine(x.label), width),
    axisName(12, middle, firstLine(y.label), 2 * middle, { transform: `rotate(-90 12 ${middle})` }),
  );
  const marks = svg("g", { "clip-path": `url(#${id}-clip)` });
  const targets = []; // what the pointer and the arrow keys can reach
  content.references.forEach(({ axis, at }, k) => {
    const ends = axis === "x" ? { x1: px(at), x2: px(at), y1: frame.top, y2: frame.bottom }
      : { x1: frame.left, x2: frame.right, y1: py(at), y2: py(at) };
    marks.append(svg("line", { ...ends, class: "gdv-reference", "stroke-dasharray": DASHES[k % 8] }));
  });
  if (cells) drawCells(cells, px, py, marks, targets, content);
  content.series.forEach((series, s) => drawSeries(series, s, px, py, marks, targets, content));
  const overlay = svg("g", { class: "gdv-overlay" });
  root.append(grid, marks, labels, overlay);
  if (cells) root.append(colourBar(cells, frame, width));
  return { root, targets, overlay };
}

function drawCells(cells, px, py, marks, targets, content) {
  const share = unit(cells);
  const [bx, by] = [borders(cells.x).map(px), borders(cells.y).map(py)];
  const nameOf = (axis, value) => axis.ticks?.find(([at]) => at === value)?.[1] ?? number(value);
  const coordinates = content.x.ticks ? (i, j) => `${nameOf(content.x, cells.x[i])}, ${nameOf(content.y, cells.y[j])}`
    : (i, j) => `x = ${number(cells.x[i])}, y = ${number(cells.y[j])}`;
  const group = svg("g", { class: "gdv-cells", "shape-rendering": "crispEdges" });
  cells.values.forEach((column, i) => column.forEach((value, j) => {
    const box = { x: Math.min(bx[i], bx[i + 1]), y: Math.min(by[j], by[j + 1]), width: Math.abs(bx[i + 1] - bx[i]), height: Math.abs(by[j + 1] - by[j]) };
    if (value !== null) group.append(svg("rect", { ...box, fill: viridis(share(value)) }));
    targets.push({
      cell: [i, j], series: -1, box, x: box.x + box.width / 2, y: box.y + box.height / 2,
      text: `${coordinates(i, j)}: ${cells.label} ${number(value)}`,
    });
  }));
  marks.append(group);
}

function drawSeries(series, s, px, py, marks, targets, content) {
  const k = series.style % 8;
  const faint = series.faint ? " gdv-faint" : "";
  const group = svg("g", { class: `gdv-series gdv-s${k}${faint}`, "data-series": series.label });
  const points = series.x.map((v, i) => [v === null ? NaN : px(v), series.y[i] === null ? NaN : py(series.y[i])]);
  if (series.low && series.high) {
    if (series.line && !series.bars) {
      const band = series.x.map((v, i) => (series.low[i] === null || series.high[i] === null ? [NaN] : [px(v), py(series.low[i]), py(series.high[i])]));
      for (const run of runs(band)) {
        const there = run.map(([x, low]) => [x, low]);
        const back = run.map(([x, , high]) => [x, high]).reverse();
        group.append(svg("path", { class: "gdv-band", d: `${polyline([...there, ...back])}Z` }));
      }
    } else {
      series.x.forEach((v, i) => {
        if (series.low[i] === null || series.high[i] === null) return;
        const [at, to] = series.horizontal ? [py(series.y[i]), px] : [px(v), py];
        const [low, high] = [to(series.low[i]), to(series.high[i])];
        const d = series.horizontal ? `M${low},${at}H${high}M${low},${at - 4}v8M${high},${at - 4}v8`
          : `M${at},${low}V${high}M${at - 4},${low}h8M${at - 4},${high}h8`;
        group.append(svg("path", { class: "gdv-line", d }));
      });
    }
  }
  if (series.fill) {
    series.x.forEach((v, i) => {
      const ends = series.horizontal ? [px(0), px(v)] : [py(0), py(series.y[i])];
      const thick = 0.7 * Math.abs(series.horizontal ? py(1) - py(0) : px(1) - px(0));
      const middle = series.horizontal ? py(series.y[i]) : px(v);
      const [start, length] = [Math.min(...ends), Math.abs(ends[1] - ends[0])];
      group.append(svg("rect", series.horizontal
        ? { x: start, y: middle - thick / 2, width: length, height: thick, class: "gdv-bar" }
        : { x: middle - thick / 2, y: start, width: thick, height: length, class: "gdv-bar" }));
    });
  }
  if (series.line) {
    const dash = series.faint ? "none" : DASHES[k];
    group.append(...runs(points).map((run) => svg("path", { class: "gdv-line", d: polyline(run), "stroke-dasharray": dash })));
  }
  points.forEach(([x, y], i) => {
    if (!Number.isFinite(x) || !Number.isFinite(y)) return;
    if (series.marker) group.append(svg("path", { class: "gdv-marker", d: markerPath(markerOf(series.style), x, y, series.faint ? 2 : 3.5) }));
    const interval = series.low && series.low[i] !== null ? ` [${number(series.low[i])}, ${number(series.high[i])}]` : "";
    const what = series.details ? series.details[i] : `${series.label}, ${firstLine(content.x.label)} ${number(series.x[i])}`;
    const value = series.horizontal ? series.x[i] : series.y[i];
    targets.push({ series: s, x, y, text: `${what}: ${number(value)}${interval}` });
  });
  marks.append(group);
}

function colourBar(cells, frame, width) {
  const group = svg("g", { class: "gdv-ticks" });
  const [left, steps, tall] = [frame.right + 12, 32, frame.bottom - frame.top];
  for (let k = 0; k < steps; k++) {
    const y = frame.bottom - ((k + 1) * tall) / steps;
    group.append(svg("rect", { x: left, y, width: 12, height: tall / steps + 0.5, fill: viridis((k + 0.5) / steps) }));
  }
  const share = unit(cells);
  for (const [value, label] of ticksOf({ ...cells, ticks: null }, 4)) {
    group.append(text(left + 16, frame.bottom - share(value) * tall + 4, label));
  }
  const middle = (frame.top + frame.bottom) / 2;
  group.append(axisName(width - 6, middle, cells.label, 2 * middle, { transform: `rotate(-90 ${width - 6} ${middle})` }));
  return group;
}

// ---- the relief: the cells as a turning surface -----------------------------------------------------------------

function drawRelief(content, width, height, [azimuth, elevation]) {
  const { cells } = content;
  const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" });
  const [a, e] = [(azimuth * Math.PI) / 180, (elevation * Math.PI) / 180];
  const scale = Math.min((width - 60) / 2.83, (height - 24) / 3.16); // the box fits at every angle
  const share = unit(cells);
  const [ux, uy] = [unit(content.x), unit(content.y)];
  /** Orthographic view of a point of the box [-1, 1]² x [0, 1]: [right, down, nearness]. */
  const project = (x, y, z) => {
    const [u, v, w] = [2 * x - 1, 2 * y - 1, 1.4 * z - 0.7];
    const [right, far] = [u * Math.cos(a) - v * Math.sin(a), u * Math.sin(a) + v * Math.cos(a)];
    return [width / 2 + scale * right, height / 2 - scale * (w * Math.cos(e) + far * Math.sin(e)), w * Math.sin(e) - far * Math.cos(e)];
  };
  const path = (corners) => `M${corners.map(([x, y]) => `${x.toFixed(1)},${y.toFixed(1)}`).join("L")}`;
  const frame = svg("g", { class: "gdv-grid" });
  frame.append(svg("path", { d: `${path([project(0, 0, 0), project(1, 0, 0), project(1, 1, 0), project(0, 1, 0)])}Z`, fill: "none" }));
  // the height axis stands at the corner that lies farthest to the left, where the surface hides it least
  const corner = [[0, 0], [1, 0], [1, 1], [0, 1]].reduce((p, q) => (project(...q, 0)[0] < project(...p, 0)[0] ? q : p));
  frame.append(svg("path", { d: path([project(...corner, 0), project(...corner, 1)]) }));
  const labels = svg("g", { class: "gdv-ticks" });
  for (const [value, label] of ticksOf({ ...cells, ticks: null }, 4)) {
    const [x, y] = project(...corner, share(value));
    labels.append(text(x - 6, y + 4, label, { "text-anchor": "end" }));
  }
  const front = (p, q) => (project(...p, 0)[1] > project(...q, 0)[1] ? p : q);
  const [xEdge, yEdge] = [front([0.5, 0], [0.5, 1]), front([0, 0.5], [1, 0.5])];
  for (const [at, axis] of [[xEdge, content.x], [yEdge, content.y]]) {
    const [x, y] = project(...at, 0);
    const [before, wide] = [x < width / 2, firstLine(axis.label).length * 6.2];
    const begin = Math.min(Math.max(2, before ? x - wide : x), width - wide); // never cut off by the border
    labels.append(text(begin, Math.min(height - 6, y + 16), firstLine(axis.label), { class: "gdv-axis" }));
  }
  labels.append(text(8, 14, cells.label, { class: "gdv-axis" }));

  const clamp = (v) => Math.min(1, Math.max(0, v));
  const point = (i, j) => project(ux(cells.x[i]), uy(cells.y[j]), clamp(share(cells.values[i][j])));
  const quads = [];
  for (let i = 0; i + 1 < cells.x.length; i++) {
    for (let j = 0; j + 1 < cells.y.length; j++) {
      const corners = [[i, j], [i + 1, j], [i + 1, j + 1], [i, j + 1]];
      const values = corners.map(([p, q]) => cells.values[p][q]);
      if (values.some((v) => v === null)) continue;
      const points = corners.map(([p, q]) => point(p, q));
      const near = points.reduce((sum, p) => sum + p[2], 0);
      quads.push({ near, d: `${path(points)}Z`, fill: viridis(values.reduce((sum, v) => sum + clamp(share(v)), 0) / 4) });
    }
  }
  quads.sort((p, q) => p.near - q.near);
  const surface = svg("g", { class: "gdv-relief" }, ...quads.map(({ d, fill }) => svg("path", { d, fill })));
  root.append(frame, surface, labels);
  return { root, targets: [], overlay: svg("g") };
}

// ---- the view: title, legend, plot, what is read out, summary ---------------------------------------------------

function legendOf(content) {
  const named = content.references.map((reference, k) => {
    if (!reference.label) return "";
    const sample = svg("svg", { width: 30, height: 12, "aria-hidden": "true" });
    sample.append(svg("line", { x1: 1, x2: 29, y1: 6, y2: 6, class: "gdv-reference", "stroke-dasharray": DASHES[k % 8] }));
    return element("li", {}, sample, reference.label);
  });
  const series = content.series.filter((series) => series.in_legend && series.label).map((series) => {
    const k = series.style % 8;
    const sample = svg("svg", { width: 30, height: 12, "aria-hidden": "true", class: `gdv-s${k}` });
    if (series.line) sample.append(svg("path", { class: "gdv-line", d: "M1,6H29", "stroke-dasharray": DASHES[k] }));
    if (series.marker) sample.append(svg("path", { class: "gdv-marker", d: markerPath(markerOf(series.style), 15, 6) }));
    return element("li", {}, sample, series.label);
  });
  return [...series, ...named.filter((item) => item)];
}

/** Plain keys belong to the controls of a panel: the notebook would move to another cell with them, or delete this one. */
function keepKeys(panel) {
  if (!panel || panel.dataset.gdvKeys) return;
  panel.dataset.gdvKeys = "kept";
  panel.addEventListener("keydown", (event) => {
    const ofTheNotebook = event.ctrlKey || event.altKey || event.metaKey || (event.shiftKey && event.key === "Enter");
    if (!ofTheNotebook) event.stopPropagation();
  });
}

function render({ model, el }) {
  // every widget loads its own copy of this module, so a counter would give all charts of a page the same name
  const id = `gdv-chart-${Math.random().toString(36).slice(2)}`;
  const title = element("div", { class: "gdv-title", id: `${id}-title` });
  const legend = element("ul", { class: "gdv-legend" });
  const plot = element("div", { class: "gdv-plot", tabindex: "0", role: "application" });
  const readout = element("div", { class: "gdv-readout", "aria-live": "polite" });
  const summary = element("p", { class: "gdv-summary", id: `${id}-summary` });
  plot.setAttribute("aria-describedby", summary.id);
  el.classList.add("gdv-chart");
  el.append(title, legend, plot, readout, summary);
  let drawn = { targets: [], overlay: svg("g") };
  let current = null; // the target that is read out now
  let width = 0;

  const draw = () => {
    width = plot.clientWidth || width;
    if (!width) return; // not laid out yet: the observer calls again
    keepKeys(el.closest(".gdv-panel"));
    const content = model.get("content");
    const relief = model.get("relief") && content.cells;
    const height = model.get("height");
    drawn = relief ? drawRelief(content, width, height, model.get("angles")) : drawPlane(content, width, height, id);
    plot.replaceChildren(drawn.root);
    plot.style.height = `${height}px`;
    plot.setAttribute("aria-roledescription", relief ? "surface, arrow keys turn it" : "chart, arrow keys read values");
    plot.setAttribute("aria-label", content.title);
    title.replaceChildren(content.title, element("span", { class: "gdv-note" }, content.note ? ` ${content.note}` : ""));
    legend.replaceChildren(...legendOf(content));
    summary.textContent = content.summary;
    current = null;
    if (relief) readout.textContent = "Drag, or use the arrow keys, to turn the surface.";
    else showCursor();
  };
  let waiting = false;
  const redraw = () => { // one drawing for all traits of one message
    if (waiting) return;
    waiting = true;
    queueMicrotask(() => { waiting = false; draw(); });
  };

  const readOut = (target, byUser) => {
    current = target;
    readout.textContent = target ? target.text : "";
    const { overlay } = drawn;
    overlay.replaceChildren();
    if (!target) return;
    if (target.box) overlay.append(svg("rect", target.box));
    else overlay.append(svg("circle", { cx: target.x, cy: target.y, r: 7 }));
    if (target.cell && byUser && String(target.cell) !== String(model.get("cursor"))) {
      model.set("cursor", target.cell);
      model.save_changes();
    }
  };
  const showCursor = () => { // also when another chart or the kernel moved it
    const cell = String(model.get("cursor"));
    const target = cell && drawn.targets.find((t) => t.cell && String(t.cell) === cell);
    if (target) readOut(target, false);
    else readout.textContent = "";
  };
  const turn = (right, up) => {
    const [azimuth, elevation] = model.get("angles");
    model.set("angles", [(azimuth + right) % 360, Math.min(90, Math.max(0, elevation + up))]);
    model.save_changes();
  };

  let grip = null;
  plot.addEventListener("pointerdown", (event) => {
    if (!model.get("relief")) return;
    grip = [event.clientX, event.clientY];
    plot.setPointerCapture(event.pointerId);
  });
  plot.addEventListener("lostpointercapture", () => { grip = null; }); // also where the browser takes the pointer away
  plot.addEventListener("pointermove", (event) => {
    if (grip) {
      turn((event.clientX - grip[0]) * 0.5, (event.clientY - grip[1]) * 0.5);
      grip = [event.clientX, event.clientY];
      return;
    }
    const box = plot.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    let [best, reach] = [null, POINTER_REACH];
    for (const target of drawn.targets) {
      const inside = target.box && x >= target.box.x && x < target.box.x + target.box.width && y >= target.box.y && y < target.box.y + target.box.height;
      const far = inside ? 5 : target.box ? Infinity : Math.hypot(target.x - x, target.y - y);
      if (far < reach) [best, reach] = [target, far];
    }
    if (best !== current) readOut(best, true);
  });
  plot.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
    if (!move) {
      if (event.key === "Escape" && current) readOut(null, true);
      return;
    }
    event.preventDefault();
    event.stopPropagation(); // the notebook would move to another cell
    if (model.get("relief")) turn(5 * move[0], 5 * move[1]);
    else readOut(neighbour(drawn.targets, current, move), true);
  });

  // what the saved notebook keeps of this panel is hidden while the panel lives
  const hidden = document.createElement("style");
  const hide = () => { hidden.textContent = model.get("kept") ? `[data-gdv-kept="${CSS.escape(model.get("kept"))}"] { display: none; }` : ""; };
  document.head.append(hidden);
  hide();
  model.on("change:kept", hide);
  const tellItIsGone = () => {
    const place = el.closest(".gdv-panel") ?? el;
    if (place.querySelector(".gdv-gone")) return;
    place.prepend(element("p", { class: "gdv-gone", role: "status" }, "The kernel of this panel has gone: run its cell again to bring it back."));
  };
  model.on("comm_live_update", tellItIsGone);

  const watched = ["content", "height", "relief", "angles"].map((name) => `change:${name}`);
  for (const name of watched) model.on(name, redraw);
  model.on("change:cursor", showCursor);
  const observer = new ResizeObserver(() => { if (plot.clientWidth !== width) redraw(); });
  observer.observe(plot);
  redraw();
  return () => {
    observer.disconnect();
    hidden.remove();
    model.off("change:kept", hide);
    model.off("comm_live_update", tellItIsGone);
    for (const name of watched) model.off(name, redraw);
    model.off("change:cursor", showCursor);
  };
}

/** The target that an arrow key reaches: the next cell, the next point of the series, or the next series there. */
function neighbour(targets, current, [right, up]) {
  if (!targets.length) return null;
  if (!current) return targets.find((t) => !t.cell) ?? targets[Math.floor(targets.length / 2)];
  if (current.cell) {
    const wanted = String([current.cell[0] + right, current.cell[1] + up]);
    return targets.find((t) => t.cell && String(t.cell) === wanted) ?? current;
  }
  if (right) {
    const same = targets.filter((t) => t.series === current.series).sort((p, q) => p.x - q.x);
    return same[same.indexOf(current) + right] ?? current;
  }
  const series = [...new Set(targets.filter((t) => !t.cell).map((t) => t.series))];
  const next = series[(series.indexOf(current.series) - up + series.length) % series.length];
  const there = targets.filter((t) => t.series === next);
  return there.reduce((p, q) => (Math.abs(q.x - current.x) < Math.abs(p.x - current.x) ? q : p));
}

export default { render };
