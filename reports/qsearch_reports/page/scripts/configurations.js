import { latestRows } from "./rows.js";

/** Configurations of a study: the value of each knob in each layer. */

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
export function rowConfiguration(study, row) {
  return Object.fromEntries(
    Array.from(rowChoices(study, row), (index, layer) => {
      const places = knobPlaces(study.knobs, index);
      const values = study.knobs.map((knob, at) => [knob.name, knob.values[places[at]]]);
      return [study.layers[layer].name, Object.fromEntries(values)];
    }),
  );
}

/** Whether all values of a knob are numbers. */
export function isNumeric(values) {
  return values.every((value) => typeof value === "number");
}

/** Place of a knob's value for every layer of a row. */
export function layerPlaces(study, row, knobAt) {
  return Array.from(rowChoices(study, row), (index) => knobPlaces(study.knobs, index)[knobAt]);
}

/** Codes of the last finished round's configurations whose layer has the chosen one's value of the knob. */
export function alikeIn(study, { chosen, knob }, layer) {
  const value = (row) => knobPlaces(study.knobs, rowChoices(study, row)[layer])[knob];
  const wanted = value(chosen);
  const rows = latestRows(study).filter((row) => value(row) === wanted);
  return new Set(rows.map((row) => study.points.configuration[row]));
}
