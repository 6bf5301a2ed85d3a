"use strict";

/** Read the page's data and unpack every study's configurations. */
async function readData() {
  const data = JSON.parse(document.getElementById("report-data").textContent);
  for (const study of data.studies) {
    study.choiceIndices = await unpack(study.configurations);
    study.count = study.points.trial.length;
  }
  return data;
}

/** Base64 of zlib-compressed little-endian integers to an array of numbers. */
async function unpack({ width, data }) {
  const bytes = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const buffer = await new Response(stream).arrayBuffer();
  const view = new DataView(buffer);
  const read = width === 2 ? (at) => view.getUint16(at, true) : (at) => view.getUint32(at, true);
  return Uint32Array.from({ length: buffer.byteLength / width }, (_, at) => read(at * width));
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
  const start = study.configuration_of[row] * layers;
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

/** The row with the least decisive loss at or under a budget; ties go to fewer average bits. */
function bestUnder(study, budget) {
  const { average_bits: bits, decisive_loss: loss } = study.points;
  let best = null;
  for (const row of latestRows(study)) {
    if (loss[row] === null || bits[row] > budget) continue;
    if (
      best === null ||
      loss[row] < loss[best] ||
      (loss[row] === loss[best] && bits[row] < bits[best])
    ) {
      best = row;
    }
  }
  return best;
}

function withError(value, error) {
  if (value === null) return "–";
  return error === null ? value.toFixed(4) : `${value.toFixed(4)} ± ${error.toFixed(4)}`;
}

/** Give the reader a file, without any request. */
function download(name, type, text) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: `${type};charset=utf-8` }));
  link.download = name.replace(/[^\p{L}\p{N}._-]+/gu, "-");
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

/** An element with attributes and children; children are text or elements, never markup. */
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

/** Text safe for Plotly, which reads tags and entities. */
function plotText(value, limit = 60) {
  let text = String(value).replace(/\s+/gu, " ").trim();
  if (Array.from(text).length > limit) text = `${Array.from(text).slice(0, limit - 1).join("")}…`;
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}
