"use strict";

/** The bytes of a base64 text that holds what zlib compressed. */
async function inflate(text) {
  const characters = atob(text);
  const bytes = new Uint8Array(characters.length);
  // A plain loop: Uint8Array.from takes ten times as long.
  for (let at = 0; at < bytes.length; at += 1) bytes[at] = characters.charCodeAt(at);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream);
}

/** Read the page's data and unpack every study's configurations. */
async function readData() {
  const packed = document.getElementById("report-data").textContent;
  const data = await (await inflate(packed)).json();
  for (const study of data.studies) {
    study.choiceIndices = await unpack(study.configurations);
    study.count = study.points.trial.length;
  }
  return data;
}

/** Compressed little-endian integers to an array of numbers. */
async function unpack({ width, data }) {
  const buffer = await (await inflate(data)).arrayBuffer();
  const view = new DataView(buffer);
  const numbers = new Uint32Array(buffer.byteLength / width);
  for (let at = 0; at < numbers.length; at += 1) {
    numbers[at] = width === 2 ? view.getUint16(2 * at, true) : view.getUint32(4 * at, true);
  }
  return numbers;
}

/** Position of each knob's value, for a choice index (the last knob varies fastest). */
function knobPlaces(knobs, index) {
  const places = new Array(knobs.length);
  for (let at = knobs.length - 1; at >= 0; at -= 1) {
    places[at] = index % knobs[at].values.length;
    index = Math.floor(index / knobs[at].values.length);
  }
  return places;
}

/** Choice indices, one per layer, of the configuration in a row. */
function rowChoices(study, row) {
  const layers = study.layers.length;
  const start = study.points.configuration[row] * layers;
  return study.choiceIndices.subarray(start, start + layers);
}

/** The configuration of a row as {layer name: {knob: value}}. */
function rowConfiguration(study, row) {
  return Object.fromEntries(
    Array.from(rowChoices(study, row), (index, layer) => {
      const places = knobPlaces(study.knobs, index);
      const values = study.knobs.map((knob, at) => [knob.name, knob.values[places[at]]]);
      return [study.layers[layer].name, Object.fromEntries(values)];
    }),
  );
}

/** Rows of the latest round. */
function latestRows(study) {
  return Array.from({ length: study.count }, (_, row) => row).filter(
    (row) => study.points.latest[row],
  );
}

/** The row that qsearch.deployment.selection.best_under chooses: of least selection loss within a budget. */
function bestUnder(study, budget) {
  const { average_bits: bits, decisive_loss: selection, loss } = study.points;
  // Ties go to fewer average bits, and then to the least observed loss.
  const beats = (a, b) => (selection[a] - selection[b] || bits[a] - bits[b] || loss[a] - loss[b]) < 0;
  let best = null;
  for (const row of latestRows(study)) {
    if (selection[row] === null || bits[row] > budget) continue;
    if (best === null || beats(row, best)) best = row;
  }
  return best;
}

/** Whether all values of a knob are numbers. */
function isNumeric(values) {
  return values.every((value) => typeof value === "number");
}

/** Rows of the overall front: what no configuration with as few average bits beats. */
function overallFront(study) {
  const { average_bits: bits, decisive_loss: selection } = study.points;
  let least = Infinity;
  return latestRows(study).filter((row) => selection[row] !== null)
    .sort((a, b) => bits[a] - bits[b] || selection[a] - selection[b])
    .filter((row) => {
      if (selection[row] >= least) return false;
      least = selection[row];
      return true;
    });
}

/** Text safe for Plotly, which reads tags and entities. */
function plotText(value, limit = 60) {
  let text = String(value).replace(/\s+/gu, " ").trim();
  if (Array.from(text).length > limit) text = `${Array.from(text).slice(0, limit - 1).join("")}…`;
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}

/** Text safe within a hover template, where braces are read too. */
function hoverText(value) {
  return plotText(value, 40).replaceAll("{", "&#123;").replaceAll("}", "&#125;");
}

/** A figure with its columns filled in: what it shares with the points is not written twice. */
function filled(study, figure) {
  const { points } = study;
  return {
    layout: figure.layout,
    data: figure.data.map((trace) => {
      const { rows } = trace;
      if (!rows) return trace;
      const read = (value) => (value?.column ? rows.map((row) => (row < 0 ? null : points[value.column][row])) : value);
      const made = { ...trace, x: read(trace.x), y: read(trace.y) };
      delete made.rows;
      for (const error of ["error_x", "error_y"]) {
        if (trace[error]) made[error] = { ...trace[error], array: read(trace[error].array) };
      }
      const columns = trace.customdata.map(read);
      made.customdata = rows.map((row, at) => [row, ...columns.map((column) => column[at])]);
      return made;
    }),
  };
}
