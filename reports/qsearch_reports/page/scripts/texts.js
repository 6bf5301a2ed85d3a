/** Text safe for Plotly, which reads tags and entities. */
export function plotText(value, limit = 60) {
  let text = String(value).replace(/\s+/gu, " ").trim();
  if (Array.from(text).length > limit) text = `${Array.from(text).slice(0, limit - 1).join("")}…`;
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}

/** Text safe within a hover template, where braces are read too. */
export function hoverText(value) {
  return plotText(value, 40).replaceAll("{", "&#123;").replaceAll("}", "&#125;");
}

/** A figure with its standard error, if that is known and not 0. */
export function withError(value, error) {
  if (value === null || value === undefined) return "–";
  // Poor perplexities run to thousands, and their fourth decimal says nothing.
  const size = Math.abs(value);
  const places = placesOf(value, size < 10 ? 4 : size < 1000 ? 2 : 0);
  const shown = value.toFixed(places);
  return error ? `${shown} ± ${error.toFixed(places)}` : shown;
}

/** Decimals of a value: so many as usual, or more where it is so small that these would say little. */
export function placesOf(value, usual) {
  const size = Math.abs(value);
  return size > 0 && size < 0.01 ? Math.min(3 - Math.floor(Math.log10(size)), 20) : usual;
}

/** The name of a value with its unit, if it has one. */
export function inUnit(name, unit) {
  return unit ? `${name} (${unit})` : name;
}

/** A signed difference, with a real minus. */
export function signed(value, places) {
  if (value === null) return "–";
  const text = Math.abs(value).toFixed(places);
  if (Number(text) === 0) return text;
  return `${value < 0 ? "−" : "+"}${text}`;
}

/** A step of 1, 2 or 5 times a power of ten that divides a range into about 200. */
export function niceStep(range) {
  if (!(range > 0)) return 1;
  const raw = range / 200;
  const power = 10 ** Math.floor(Math.log10(raw));
  return [1, 2, 5, 10].map((times) => times * power).find((step) => step >= raw * 0.999);
}

/** Decimals that a step needs. */
export function decimalsOf(step) {
  return Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
}
