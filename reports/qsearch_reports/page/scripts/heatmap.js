import { isNumeric, layerPlaces } from "./configurations.js";
import { drawing, element, symbol } from "./dom.js";
import { draw } from "./plots.js";
import { hoverText, plotText } from "./texts.js";
import { isDark } from "./theme.js";

/** Text on a cell is drawn only where it fits. */
const CELL_TEXT = { columns: 16, characters: 3 };

/** Draw one knob of a configuration by role and block, from each layer's place of its value. */
export function drawHeatmap(node, study, places, knobAt) {
  const knob = study.knobs[knobAt];
  const count = knob.values.length;
  const short = knob.values.every((value) => String(value).length <= CELL_TEXT.characters);
  const named = `${hoverText(knob.name)} %{text}`;
  return drawLayers(node, study, {
    z: (layer) => places[layer],
    text: (layer) => plotText(knob.values[places[layer]], 20),
    range: [-0.5, count - 0.5],
    colorscale: knob.colours.flatMap((colour, at) => [
      [at / count, colour],
      [(at + 1) / count, colour],
    ]),
    short,
    hover: named,
  });
}

/** Blue where the chosen configuration has less, orange where it has more, or another value that is not a number. */
const DIVERGING = {
  light: ["#0B4F8A", "#7FB2DD", "#EEF0F3", "#F0B27A", "#A8430A"],
  dark: ["#7CC4FF", "#2F6FA8", "#28323E", "#A85E1C", "#FFB366"],
};

/** Draw how a knob differs between two configurations, by role and block. */
export function drawDifference(node, study, differences, knobAt) {
  const knob = study.knobs[knobAt];
  const most = isNumeric(knob.values) ? Math.max(...knob.values) - Math.min(...knob.values) || 1 : 1;
  const colours = DIVERGING[isDark() ? "dark" : "light"];
  return drawLayers(node, study, {
    z: (layer) => differences[layer].by,
    text: (layer) => plotText(differences[layer].text, 12),
    range: [-most, most],
    colorscale: colours.map((colour, at) => [at / (colours.length - 1), colour]),
    short: differences.every(({ text }) => text.length <= CELL_TEXT.characters),
    hover: `${hoverText(knob.name)} %{customdata[2]} → %{customdata[3]}`,
    more: (layer) => [plotText(differences[layer].from, 20), plotText(differences[layer].to, 20)],
  });
}

/** Draw something of each layer by role and block. */
function drawLayers(node, study, { z, text, range, colorscale, short, hover, more = () => [] }) {
  const { rows, blocks, positions } = study.grid;
  const cells = (read, missing) =>
    positions.map((line) => line.map((layer) => (layer < 0 ? missing : read(layer))));
  const figure = {
    data: [{
      type: "heatmap",
      x: blocks.map(String),
      y: rows.map((_, at) => at),
      z: cells(z, null),
      zmin: range[0],
      zmax: range[1],
      colorscale,
      showscale: false,
      xgap: blocks.length > 40 ? 1 : 2,
      ygap: 2,
      text: cells(text, ""),
      texttemplate: short && blocks.length <= CELL_TEXT.columns ? "%{text}" : "",
      customdata: cells((layer) => [
        plotText(study.layers[layer].name, 80),
        study.layers[layer].parameters.toLocaleString("en"),
        ...more(layer),
      ], ["", ""]),
      hovertemplate: `%{customdata[0]}<br>block %{x}, %{customdata[1]} weights<br>${hover}<extra></extra>`,
      hoverongaps: false,
      meta: "heatmap",
    }],
    layout: {
      font: { family: getComputedStyle(document.body).fontFamily, size: 12 },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      margin: { l: 20, r: 4, t: 8, b: 40 },
      xaxis: {
        title: { text: "block", standoff: 6 }, type: "category", showgrid: false, ticks: "",
        fixedrange: true, automargin: true,
      },
      yaxis: {
        autorange: "reversed", tickvals: rows.map((_, at) => at),
        ticktext: rows.map((role) => plotText(role, 22)), showgrid: false, zeroline: false,
        ticks: "", fixedrange: true, automargin: true,
      },
    },
  };
  node.style.height = `${Math.min(Math.max(150, 62 + 34 * rows.length), 640)}px`;
  return draw(node, figure);
}

/** Frame a layer's cell in a drawn heatmap. */
export function markLayer(node, study, layer) {
  const plot = node._fullLayout?._plots?.xy?.plot?.node();
  if (!plot) return;
  plot.querySelector(":scope > .marks")?.remove();
  if (layer === null) return;
  const row = study.grid.positions.findIndex((line) => line.includes(layer));
  const column = study.grid.positions[row].indexOf(layer);
  const { xaxis, yaxis } = node._fullLayout;
  const [x, next] = [xaxis.c2p(column - 0.5), xaxis.c2p(column + 0.5)];
  const [y, below] = [yaxis.c2p(row - 0.5), yaxis.c2p(row + 0.5)];
  const group = drawing("g", { class: "marks", "aria-hidden": "true" });
  group.append(drawing("path", { class: "layer", d: `M${x + 1} ${y + 1}H${next - 1}V${below - 1}H${x + 1}Z` }));
  plot.append(group);
}

/** Fill the legend: each value's colour and the share of quantized weights that has it. */
export function fillLegend(list, study, row, knobAt) {
  const knob = study.knobs[knobAt];
  const weights = new Array(knob.values.length).fill(0);
  layerPlaces(study, row, knobAt).forEach((place, layer) => {
    weights[place] += study.layers[layer].parameters;
  });
  const total = weights.reduce((sum, part) => sum + part, 0);
  list.replaceChildren(
    ...knob.values.map((value, at) =>
      element(
        "li", {}, symbol("square", knob.colours[at]), String(value),
        element("span", { class: "share" }, `${((100 * weights[at]) / total).toFixed(1)} %`),
      ),
    ),
  );
}
