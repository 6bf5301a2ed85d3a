import { rowConfiguration } from "./configurations.js";
import { download } from "./dom.js";

/** Records to CSV (RFC 4180); what is not a plain value is written as JSON. */
export function toCsv(records) {
  const quote = (value) => {
    const text = value === null ? "" : typeof value === "object" ? JSON.stringify(value) : String(value);
    return /[",\r\n]/u.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  const names = records.length ? Object.keys(records[0]) : [];
  return [names, ...records.map((record) => names.map((name) => record[name]))]
    .map((values) => `${values.map(quote).join(",")}\r\n`)
    .join("");
}

/** A configuration, {layer: {knob: value}}, to YAML 1.2: names are quoted as JSON, which YAML reads. */
function toYaml(configuration) {
  const line = ([name, knobs]) => {
    const pairs = Object.entries(knobs).map(([knob, value]) => `${yamlKey(knob, " ")}${yamlText(value)}`);
    return `${yamlKey(name, "\n")}{${pairs.join(", ")}}\n`;
  };
  return Object.entries(configuration).map(line).join("");
}

/** A key of YAML. A long one is marked as a key: readers find others within 1,024 characters only. */
function yamlKey(name, end) {
  const text = yamlText(name);
  return text.length > 1000 ? `? ${text}${end}: ` : `${text}: `;
}

/** A scalar of YAML: numbers as they are, texts quoted, with what YAML would not print escaped. */
function yamlText(value) {
  if (typeof value === "number") return String(value);
  const odd = /[\u007f-\u009f\u2028\u2029\ufeff\ufffe\uffff\p{Surrogate}]/gu;
  const escaped = (text) => `\\u${text.charCodeAt(0).toString(16).padStart(4, "0")}`;
  return JSON.stringify(String(value)).replace(odd, escaped);
}

/** A configuration as rows of a table: one per layer, a column for each knob. */
function configurationRecords(configuration) {
  return Object.entries(configuration).map(([layer, knobs]) => ({ layer, ...knobs }));
}

const CONFIGURATION_FILES = {
  json: ["application/json", (configuration) => `${JSON.stringify(configuration, null, 1)}\n`],
  yaml: ["application/yaml", toYaml],
  csv: ["text/csv", (configuration) => toCsv(configurationRecords(configuration))],
};

/** Give the reader a configuration as a file. */
export function downloadConfiguration(study, row, kind) {
  const [type, write] = CONFIGURATION_FILES[kind];
  const name = `${study.name}-trial-${study.points.trial[row]}.${kind}`;
  download(name, type, write(rowConfiguration(study, row)));
}
