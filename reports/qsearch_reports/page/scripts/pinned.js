import { isNumeric, layerPlaces } from "./configurations.js";
import { element } from "./dom.js";
import { drawDifference } from "./heatmap.js";
import { readableSize, signedSize, totalWeights } from "./sizes.js";
import { inUnit, placesOf, signed, withError } from "./texts.js";

/** The card that compares the chosen configuration with the pinned one. */
export function makeCompare(root, study, store) {
  const part = (name) => root.querySelector(`[data-part="${name}"]`);
  const card = part("compare");

  async function show() {
    const { chosen, pinned, knob } = store.state;
    card.hidden = pinned === null || chosen === null;
    if (card.hidden) return;
    const { trial: trials, round: rounds } = study.points;
    // Trials are evaluated again in each round: the same one can be on both sides.
    const isSame = trials[pinned] === trials[chosen] && chosen !== pinned;
    const trial = (row) => `trial ${trials[row]}${isSame ? ` of round ${rounds[row]}` : ""}`;
    part("compare-title").textContent = `Pinned ${trial(pinned)} and chosen ${trial(chosen)}`;
    part("compare-rows").replaceChildren(...comparedValues(study, pinned, chosen).map(([name, ...texts]) =>
      element("tr", {}, element("th", { scope: "row", dir: "auto" }, name),
        ...texts.map((text) => element("td", { class: "number", dir: "auto" }, text)))));
    const differences = layerDifferences(study, pinned, chosen, knob);
    part("compare-text").textContent = chosen === pinned ? "They are the same; choose another to compare." :
      differencesText(study.knobs[knob], differences);
    await drawDifference(part("difference"), study, differences, knob);
  }

  part("unpin").addEventListener("click", () => {
    store.set({ pinned: null });
    part("pin").focus();
  });
  part("swap").addEventListener("click", () => {
    const { chosen, pinned } = store.state;
    store.set({ chosen: pinned, pinned: chosen, by: "reader" });
  });
  store.subscribe((changed) => {
    if (["chosen", "pinned", "knob"].some((key) => changed.has(key))) show();
  });
  return { recolour: show };
}

/** Rows of the comparison: name, pinned, chosen, and chosen less pinned. */
function comparedValues(study, pinned, chosen) {
  const { points } = study;
  const rows = [];
  const add = (name, read, write, difference) => {
    const [a, b] = [read(pinned), read(chosen)];
    if (a === null && b === null) return;
    rows.push([name, write(a, pinned), write(b, chosen), a === null || b === null ? "–" : difference(b - a, Math.max(Math.abs(a), Math.abs(b)))]);
  };
  const plain = (column, error) => [
    (row) => points[column][row],
    (value, row) => withError(value, points[error]?.[row] ?? null),
    (value, size) => signed(value, placesOf(size, 4)),
  ];
  add("average bits", ...plain("average_bits"));
  add("quantized weights", (row) => (points.average_bits[row] * totalWeights(study)) / 8, readableSize, signedSize);
  add("weight files", (row) => points.bytes[row], readableSize, signedSize);
  add(inUnit("loss", study.unit), ...plain("loss", "standard_error"));
  add(inUnit("estimated loss", study.unit), ...plain("estimated_loss", "estimated_loss_std"));
  if (study.metric) add(study.metric.name, ...plain("metric", "metric_standard_error"));
  for (const { key, name } of study.more_metrics) add(name, ...plain(key, `${key}_standard_error`));
  const seen = [pinned, chosen].map((row) => points.seen[row]);
  if (!seen.includes(null)) rows.push(["in training", ...seen.map((each) => (each ? "seen" : "unseen")), ""]);
  rows.push(["method", points.method[pinned], points.method[chosen], ""]);
  return rows;
}

/** In how many layers a knob differs, and what the colours of the heatmap say. */
function differencesText({ name, values }, differences) {
  const count = (keeps) => differences.filter(keeps).length;
  const differing = `${name} differs in ${count(({ from, to }) => from !== to)} of ${differences.length} layers`;
  if (!isNumeric(values)) return `${differing}: those in orange. Point at one to see both values.`;
  return `${differing}: more in the chosen one in ${count(({ by }) => by > 0)} (orange), ` +
    `less in ${count(({ by }) => by < 0)} (blue); the greater the difference, the stronger the colour.`;
}

/** How each layer's value of a knob differs: by a number, where values are numbers, and as a text. */
function layerDifferences(study, pinned, chosen, knobAt) {
  const { values } = study.knobs[knobAt];
  const numeric = isNumeric(values);
  const before = layerPlaces(study, pinned, knobAt);
  return layerPlaces(study, chosen, knobAt).map((place, layer) => {
    const [from, to] = [values[before[layer]], values[place]];
    if (from === to) return { by: 0, text: "", from, to };
    if (!numeric) return { by: 1, text: `${from} → ${to}`, from, to };
    return { by: to - from, text: signed(to - from, Number.isInteger(to - from) ? 0 : 2), from, to };
  });
}
