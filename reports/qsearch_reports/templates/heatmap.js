/** Text on a cell is drawn only where it fits. */
const CELL_TEXT = { columns: 16, characters: 3 };

/** Place of a knob's value for every layer of a row. */
function layerPlaces(study, row, knobAt) {
  return Array.from(rowChoices(study, row), (index) => knobPlaces(study.knobs, index)[knobAt]);
}

/** Draw one knob of a row's configuration by role and block. */
function drawHeatmap(node, study, row, knobAt) {
  const { rows, blocks, positions } = study.grid;
  const knob = study.knobs[knobAt];
  const places = layerPlaces(study, row, knobAt);
  const cells = (read, missing) =>
    positions.map((line) => line.map((layer) => (layer < 0 ? missing : read(layer))));
  const count = knob.values.length;
  const shown = cells((layer) => plotText(knob.values[places[layer]], 20), "");
  const small = blocks.length <= CELL_TEXT.columns &&
    knob.values.every((value) => String(value).length <= CELL_TEXT.characters);
  const figure = {
    data: [{
      type: "heatmap",
      x: blocks.map(String),
      y: rows.map((_, at) => at),
      z: cells((layer) => places[layer], null),
      zmin: -0.5,
      zmax: count - 0.5,
      colorscale: knob.colours.flatMap((colour, at) => [
        [at / count, colour],
        [(at + 1) / count, colour],
      ]),
      showscale: false,
      xgap: blocks.length > 40 ? 1 : 2,
      ygap: 2,
      text: shown,
      texttemplate: small ? "%{text}" : "",
      customdata: cells((layer) => [
        plotText(study.layers[layer].name, 80),
        study.layers[layer].parameters.toLocaleString("en"),
      ], ["", ""]),
      hovertemplate: `%{customdata[0]}<br>block %{x}, %{customdata[1]} weights<br>` +
        `${plotText(knob.name, 40).replaceAll("{", "&#123;").replaceAll("}", "&#125;")} %{text}<extra></extra>`,
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
  return draw(node, figure, { ...PLOT_OPTIONS, displayModeBar: false });
}

/** Fill the legend: each value's colour and the share of quantized weights that has it. */
function fillLegend(list, study, row, knobAt) {
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

const SHAPES = { square: "M0 0H10V10H0Z", circle: "M5 1A4 4 0 1 1 5 9A4 4 0 1 1 5 1Z", diamond: "M5 0L10 5L5 10L0 5Z" };

/** A small drawn mark that goes beside its name. */
function symbol(shape, colour) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  svg.setAttribute("viewBox", "0 0 10 10");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(space, "path");
  path.setAttribute("d", SHAPES[shape]);
  path.setAttribute("fill", colour);
  svg.append(path);
  return svg;
}
