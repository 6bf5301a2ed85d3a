import { isNumeric, layerPlaces } from "./configurations.js";
import { drawing } from "./dom.js";
import { selectedRows } from "./rows.js";

/**
 * Marks over a figure, of what is chosen, pinned and selected.
 *
 * They are drawn over the figure, not as traces of it: Plotly draws all points again when a trace
 * changes, which takes 0.2 s for 5,000 points, and marks take a few milliseconds.
 */

/** Where configurations are in a drawn figure: code to places, each a list of points. */
export function findPlaces(node, study) {
  const places = new Map();
  node.data.forEach((trace, curve) => {
    if (!trace.customdata || !isOfEvaluations(trace)) return;
    let before = null;
    trace.customdata.forEach((details, at) => {
      const row = details?.[0];
      if (row === undefined || row === null || row < 0) {
        before = null;
        return;
      }
      const code = study.points.configuration[row];
      const joined = trace.mode === "lines" && before === row;
      before = row;
      if (!places.has(code)) places.set(code, []);
      const found = places.get(code);
      if (joined) found.at(-1).points.push(at);
      else found.push({ curve, row, points: [at] });
    });
  });
  return places;
}

/** Whether a trace's points stand for evaluations, rather than layers or rounds. */
export function isOfEvaluations(trace) {
  return !/^(layer|round|heatmap)/u.test(trace.meta ?? "");
}

/** Whether a trace is drawn: the reader may have hidden it by its name in the legend. */
export function isShown(trace) {
  return (trace.visible ?? true) === true;
}

/** Pixels of a place within the plot: [x, y] of each of its points. */
function pixels(node, place) {
  const trace = node.data[place.curve];
  const { xaxis, yaxis } = axesOf(node, trace);
  return place.points
    .map((at) => [xaxis.d2p(trace.x[at]), yaxis.d2p(trace.y[at])])
    .filter((point) => point.every(Number.isFinite));
}

/** The outline of the whole bar that a place is a part of. */
function barOutline(node, place) {
  const trace = node.data[place.curve];
  const { xaxis, yaxis } = axesOf(node, trace);
  const half = Math.abs(xaxis.c2p(1) - xaxis.c2p(0)) / 2;
  const x = xaxis.d2p(trace.x[place.points[0]]);
  return `M${x - half} 1H${x + half}V${yaxis._length - 1}H${x - half}Z`;
}

/** The axes of a trace, as Plotly laid them out. */
function axesOf(node, trace) {
  const layout = node._fullLayout;
  const name = (axis, letter) => `${letter}axis${(axis ?? letter).slice(1)}`;
  return { xaxis: layout[name(trace.xaxis, "x")], yaxis: layout[name(trace.yaxis, "y")] };
}

const MARKS = {
  disc: (x, y) => `M${x - 5} ${y}a5 5 0 1 0 10 0a5 5 0 1 0-10 0Z`,
  diamond: (x, y) => `M${x} ${y - 6}l6 6l-6 6l-6-6Z`,
  ring: (x, y) => `M${x - 9.5} ${y}a9.5 9.5 0 1 0 19 0a9.5 9.5 0 1 0-19 0Z`,
  dash: (x, y) => `M${x - 5} ${y}h10`,
  box: (x, y) => `M${x - 9} ${y - 9}h18v18h-18Z`,
};

/** The outline of a place, as SVG path data. */
function outline(node, place, kind) {
  if (node.data[place.curve].type === "bar") return barOutline(node, place);
  const points = pixels(node, place);
  const rounded = points.map((pair) => pair.map((value) => Math.round(value * 10) / 10));
  if (points.length > 1) return rounded.map(([x, y], at) => `${at ? "L" : "M"}${x} ${y}`).join("");
  return rounded.map(([x, y]) => MARKS[kind](x, y)).join("");
}

/**
 * Marks in a figure of layers: where the chosen configuration's layers are, or on the mean what the
 * selected ones have, and the layer that is marked.
 */
function layerMarks(node, study, { chosen, selected, layer }) {
  const rows = selectedRows(study, { selected });
  const values = meanValues(study, rows.length ? rows : [chosen]);
  const [own, marked] = [[], []];
  node.data.forEach((trace) => {
    if (!trace.customdata || !isShown(trace) || !String(trace.meta).startsWith("layer")) return;
    const { xaxis, yaxis } = axesOf(node, trace);
    trace.customdata.forEach(([position], at) => {
      const x = xaxis.d2p(trace.x[at]);
      own.push(MARKS.dash(x, yaxis.d2p(values[position])));
      if (position === layer) marked.push(MARKS.ring(x, yaxis.d2p(trace.y[at])));
    });
  });
  return [["chosen thin", own.join("")], ["layer", marked.join("")]];
}

/** Mean over rows of each layer's value of the study's first knob of interest. */
function meanValues(study, rows) {
  const at = study.knobs.findIndex(({ name }) => name === study.knob);
  const { values } = study.knobs[at];
  const numeric = isNumeric(values);
  const sums = new Array(study.layers.length).fill(0);
  for (const row of rows) {
    layerPlaces(study, row, at).forEach((place, layer) => { sums[layer] += numeric ? values[place] : place; });
  }
  return sums.map((sum) => sum / rows.length);
}

/** Mark the store's choice, pin and selection in a drawn figure. */
export function drawMarks(node, study, state) {
  const plot = node._fullLayout?._plots?.xy?.plot?.node();
  if (!plot || !node.places) return;
  const { chosen, pinned, selected } = state;
  const { seen } = study.points;
  const shown = node.data.map(isShown);
  const all = (codes) => codes.flatMap((code) => (node.places.get(code) ?? []).filter(({ curve }) => shown[curve]));
  const codeOf = (row) => (row === null ? [] : [study.points.configuration[row]]);
  const join = (places, kind) => places.map((place) => outline(node, place, kind)).join("");
  const some = all([...selected]);
  const layers = [
    ["seen", join(some.filter(({ row }) => seen[row] !== false), "disc")],
    ["unseen", join(some.filter(({ row }) => seen[row] === false), "diamond")],
    ["pinned", join(all(codeOf(pinned)), "box")],
    ["chosen", join(all(codeOf(chosen)), "ring")],
    ...(node.places.size || chosen === null ? [] : layerMarks(node, study, state)),
  ];
  const group = drawing("g", { class: "marks", "aria-hidden": "true" });
  for (const [name, path] of layers) if (path) group.append(drawing("path", { class: name, d: path }));
  plot.querySelector(":scope > .marks")?.remove();
  plot.append(group);
  node.classList.toggle("has-selection", selected.size > 0 && node.places.size > 0);
  node.dataset.marked = [all(codeOf(chosen)).length, all(codeOf(pinned)).length, some.length].join(" ");
}
