import { alikeIn, layerPlaces } from "./configurations.js";
import { element } from "./dom.js";
import { downloadConfiguration } from "./files.js";
import { drawHeatmap, fillLegend, markLayer } from "./heatmap.js";
import { readableSize, totalWeights } from "./sizes.js";
import { withError } from "./texts.js";

/** What is known of a row, as pairs of a name and a text. */
function rowValues(study, row) {
  const { points } = study;
  const bits = points.average_bits[row];
  const estimated = points.estimated_loss[row];
  const front = points.on_front[row] ? "on it" : "not on it";
  return [
    ["average bits", bits.toFixed(4)],
    ["quantized weights", readableSize((bits * totalWeights(study)) / 8)],
    ...(study.adapter_bits ? [["with adapter", `${(bits + study.adapter_bits).toFixed(4)} average bits`]] : []),
    ...(points.bytes[row] === null ? [] : [["weight files", readableSize(points.bytes[row])]]),
    ...(points.tokens_per_second[row] === null ? [] : [["tokens a second", `${points.tokens_per_second[row].toFixed(1)}, predicted`]]),
    ["loss", withError(points.loss[row], points.standard_error[row])],
    ...(estimated === null ? [] : [["estimated loss", withError(estimated, points.estimated_loss_std[row])]]),
    ...(study.metric ? [[study.metric.name, withError(points.metric[row], points.metric_standard_error[row])]] : []),
    ...study.more_metrics.map(({ key, name }) => [name, withError(points[key][row], points[`${key}_standard_error`][row])]),
    ...(points.seen[row] === null ? [] : [["in training", points.seen[row] ? "seen" : "unseen"]]),
    ["segment front", `${front} (segment ${points.segment[row]})`],
    ["method", points.method[row]],
  ];
}

/** The card of the chosen configuration: its values, its layers, its files. */
export function makeDetail(root, study, store) {
  const part = (name) => root.querySelector(`[data-part="${name}"]`);

  function show() {
    const { chosen } = store.state;
    if (chosen === null) return undefined;
    part("selected-title").textContent = `Trial ${study.points.trial[chosen]}, round ${study.points.round[chosen]}`;
    part("values").replaceChildren(
      ...rowValues(study, chosen).map(([name, text]) =>
        element("div", {}, element("dt", { dir: "auto" }, name), element("dd", { dir: "auto" }, text))),
    );
    part("pin").textContent = chosen === store.state.pinned ? "Unpin" : "Pin to compare";
    return showLayers();
  }

  async function showLayers() {
    const { chosen, knob, layer } = store.state;
    if (chosen === null) return;
    fillLegend(part("legend"), study, chosen, knob);
    await drawHeatmap(part("heatmap"), study, layerPlaces(study, chosen, knob), knob);
    markLayer(part("heatmap"), study, layer);
    part("layer").textContent = layer === null ? "" : layerText(study, chosen, knob, layer);
    root.dataset.selected = chosen;
  }

  function makeKnobs() {
    const group = `knob-${root.dataset.study}`;
    part("knobs").replaceChildren(...study.knobs.map((knob, at) => {
      const input = element("input", { type: "radio", name: group, value: at, checked: at === store.state.knob });
      input.addEventListener("change", () => store.set({ knob: at }));
      return element("label", { dir: "auto" }, input, knob.name);
    }));
  }

  /** Mark a layer, and select all configurations that give it what the chosen one does. */
  function chooseLayer({ points: [point] }) {
    const { positions } = study.grid;
    const layer = positions[point.pointIndex[0]][point.pointIndex[1]];
    if (layer < 0) return;
    store.set({ layer, selected: alikeIn(study, store.state, layer) });
  }

  /** With keys: mark the next layer in a direction, or select what is alike in the marked one. */
  function useKeys(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const { layer } = store.state;
    const way = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    if (way) store.set({ layer: layer === null ? 0 : layerBeside(study.grid.positions, layer, way) });
    else if ((event.key === "Enter" || event.key === " ") && layer !== null) {
      store.set({ selected: alikeIn(study, store.state, layer) });
    } else return;
    event.preventDefault();
  }

  makeKnobs();
  part("heatmap").addEventListener("keydown", useKeys);
  part("pin").addEventListener("click", () => {
    const { chosen, pinned } = store.state;
    store.set({ pinned: chosen === pinned ? null : chosen });
  });
  for (const button of root.querySelectorAll("[data-configuration]")) {
    button.addEventListener("click", () => {
      downloadConfiguration(study, store.state.chosen, button.dataset.configuration);
    });
  }
  store.subscribe((changed) => {
    if (changed.has("chosen") || changed.has("pinned")) show();
    else if (changed.has("knob") || changed.has("layer")) showLayers();
  });
  return {
    async show() {
      await show();
      part("heatmap").on?.("plotly_click", chooseLayer);
      part("heatmap").on?.("plotly_afterplot", () => markLayer(part("heatmap"), study, store.state.layer));
    },
    recolour: showLayers,
  };
}

/** The layer next to another in a direction of the grid, over cells that hold none. */
function layerBeside(positions, layer, [down, right]) {
  let row = positions.findIndex((line) => line.includes(layer));
  let column = positions[row].indexOf(layer);
  do {
    row += down;
    column += right;
  } while (positions[row]?.[column] < 0);
  return positions[row]?.[column] ?? layer;
}

/** What is known of a layer in a configuration, in a line. */
function layerText(study, row, knobAt, layer) {
  const { name, values } = study.knobs[knobAt];
  const { name: layerName, parameters } = study.layers[layer];
  return `${layerName}: ${name} ${values[layerPlaces(study, row, knobAt)[layer]]}, ${parameters.toLocaleString("en")} weights`;
}
