/** Bytes of a study's configurations. */

export function totalWeights(study) {
  return study.layers.reduce((sum, layer) => sum + layer.parameters, 0);
}

/** Bytes to be read, such as 55.0 MB. */
export function readableSize(bytes) {
  const units = [["GB", 1e9], ["MB", 1e6], ["kB", 1e3]];
  const [unit, size] = units.find(([, each]) => bytes >= each) ?? ["B", 1];
  return `${(bytes / size).toFixed(unit === "B" ? 0 : 1)} ${unit}`;
}

export function signedSize(bytes) {
  return bytes === 0 ? "0 B" : `${bytes < 0 ? "−" : "+"}${readableSize(Math.abs(bytes))}`;
}
