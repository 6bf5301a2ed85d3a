import { alikeIn } from "./configurations.js";
import { drawMarks, findPlaces, isOfEvaluations, isShown } from "./marks.js";
import { trainingSet } from "./rows.js";
import { toggled } from "./store.js";

/** Link a drawn figure with the store: by clicks, by dragging, and by keys. */
export function linkPlot(node, study, store) {
  const rowOf = (point) => {
    const details = point.customdata;
    return details && isOfEvaluations(point.data ?? point.fullData) && details[0] >= 0 ? details[0] : null;
  };

  node.on("plotly_click", ({ points, event }) => {
    const row = points.map(rowOf).find((found) => found !== null);
    if (row !== undefined) {
      if (event?.shiftKey) store.set({ selected: toggled(store.state.selected, [study.points.configuration[row]]) });
      else store.set({ chosen: row, by: "reader" });
      return;
    }
    const [point] = points;
    if (!point?.customdata) return;
    const kind = String((point.data ?? point.fullData).meta ?? "");
    if (kind.startsWith("layer")) store.set({ layer: point.customdata[0] });
    if (kind.startsWith("round")) store.set({ selected: trainingSet(study, point.customdata[0]) });
  });

  let isAdding = false;
  node.addEventListener("mousedown", (event) => { isAdding = event.shiftKey; }, { capture: true });
  node.on("plotly_selected", (selection) => {
    if (!selection?.range && !selection?.lassoPoints) return;
    if (!node.places.size) return;
    const codes = codesWithin(node, study, selection);
    removeOutline(node);
    store.set({ selected: isAdding ? new Set([...store.state.selected, ...codes]) : codes });
  });
  node.on("plotly_deselect", () => store.set({ selected: new Set() }));

  node.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const step = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
    const { layer } = store.state;
    if (step) {
      if (!goToNext(node, study, store, step)) return;
    } else if (event.key === "Enter" || event.key === " ") {
      if (isOfLayers(node)) {
        if (layer !== null) store.set({ selected: alikeIn(study, store.state, layer) });
        event.preventDefault();
        return;
      }
      if (store.state.chosen === null || !node.places.size) return;
      const code = study.points.configuration[store.state.chosen];
      store.set({ selected: toggled(store.state.selected, [code]) });
    } else if (event.key.toLowerCase() === "p") store.set({ pinned: store.state.chosen });
    else if (event.key === "Escape") store.set({ selected: new Set() });
    else return;
    event.preventDefault();
  });

  node.on("plotly_afterplot", () => drawMarks(node, study, store.state));
}

/** Bring a figure's marks up to date, after it was drawn with other data. */
export function refreshMarks(node, study, store) {
  node.places = findPlaces(node, study);
  drawMarks(node, study, store.state);
}

/** Looks of points that Plotly itself holds for selected or not: as they were. */
export const AS_BEFORE = { selected: { marker: { opacity: 1 } }, unselected: { marker: { opacity: 1 } } };

/**
 * Take Plotly's own selection and its outline away: the marks say what is selected in all figures.
 *
 * Asked to remove the points, Plotly would draw all of them again.
 */
function removeOutline(node) {
  for (const trace of [...node.data, ...node._fullData]) delete trace.selectedpoints;
  Plotly.relayout(node, { selections: [] });
}

/** Codes of the configurations within a box or a lasso. */
function codesWithin(node, study, { range, lassoPoints }) {
  const codes = new Set();
  const inside = range ? insideBox(range) : insidePolygon(lassoPoints);
  for (const [code, places] of node.places) {
    const found = places.some(({ curve, points }) => {
      const trace = node.data[curve];
      return isShown(trace) && along(trace, points).some(([x, y]) => inside(x, y));
    });
    if (found) codes.add(code);
  }
  return codes;
}

/** Points of a place, and for a line of two points some between them: a bar is also in its middle. */
function along({ x, y }, points) {
  const ends = points.map((at) => [x[at], y[at]]);
  if (points.length !== 2 || ends.flat().includes(null)) return ends;
  const [[x0, y0], [x1, y1]] = ends;
  return Array.from({ length: 17 }, (_, at) => [x0 + ((x1 - x0) * at) / 16, y0 === y1 ? y0 : y0 + ((y1 - y0) * at) / 16]);
}

function insideBox({ x, y }) {
  const between = (value, [a, b]) => value !== null && value >= Math.min(a, b) && value <= Math.max(a, b);
  return (px, py) => between(px, x) && (!y || between(py, y));
}

/** Whether a point is within a polygon (even-odd rule). */
function insidePolygon({ x, y }) {
  return (px, py) => {
    if (px === null || py === null) return false;
    let inside = false;
    for (let at = 0, before = x.length - 1; at < x.length; before = at, at += 1) {
      const crosses = y[at] > py !== y[before] > py;
      if (crosses && px < ((x[before] - x[at]) * (py - y[at])) / (y[before] - y[at]) + x[at]) inside = !inside;
    }
    return inside;
  };
}

function isOfLayers(node) {
  return node.data.some(({ meta }) => String(meta).startsWith("layer"));
}

/** Go to what is next: a configuration, a layer, or a round, whatever the figure is of. */
function goToNext(node, study, store, step) {
  if (node.places.size) chooseNeighbour(node, study, store, step);
  else if (isOfLayers(node)) markNeighbour(node, store, step);
  else if (node.data.some(({ meta, customdata }) => customdata && String(meta).startsWith("round"))) {
    const rounds = Object.keys(study.training_sets).map(Number).sort((a, b) => a - b);
    node.round = rounds[placeBeside(rounds.indexOf(node.round), step, rounds.length)];
    store.set({ selected: trainingSet(study, node.round) });
  } else return false;
  return true;
}

/** The place one step from another; without another, the first. */
function placeBeside(at, step, count) {
  return at < 0 ? 0 : Math.min(Math.max(at + step, 0), count - 1);
}

/** Mark the layer next to the marked one in a figure of layers, from left to right. */
function markNeighbour(node, store, step) {
  const order = node.data.filter((trace) => trace.customdata && isShown(trace))
    .flatMap((trace) => trace.customdata.map(([layer], at) => ({ layer, x: trace.x[at] })))
    .sort((a, b) => a.x - b.x || a.layer - b.layer);
  const at = order.findIndex(({ layer }) => layer === store.state.layer);
  if (order.length) store.set({ layer: order[placeBeside(at, step, order.length)].layer });
}

/** Choose the evaluation next to the chosen one in a figure, from left to right. */
function chooseNeighbour(node, study, store, step) {
  const { chosen } = store.state;
  const { configuration } = study.points;
  const across = new Map(); // row to where it is; a figure may show a configuration in each round
  for (const { curve, row, points } of [...node.places.values()].flat()) {
    const trace = node.data[curve];
    if (!isShown(trace) || across.has(row)) continue;
    across.set(row, points.length > 2 ? study.points.average_bits[row] : trace.x[points[0]]);
  }
  const order = [...across.keys()].sort((a, b) => across.get(a) - across.get(b) || configuration[a] - configuration[b]);
  if (!order.length) return;
  const same = (row) => chosen !== null && configuration[row] === configuration[chosen];
  const at = across.has(chosen) ? order.indexOf(chosen) : order.findLastIndex(same);
  store.set({ chosen: order[placeBeside(at, step, order.length)], by: "reader" });
}
