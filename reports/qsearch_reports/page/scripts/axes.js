import { plotText } from "./texts.js";

/** Axes of a figure, and their titles. */

/** Names of the axes that a layout has. */
export function axesIn(layout) {
  return Object.keys(layout).filter((name) => /^[xy]axis\d*$/u.test(name));
}

/** Size of an axis's title, and about how wide a letter of it is, in pixels. */
export const TITLE = { size: 13, letter: 7.2 };

/** The title of each axis of a layout, by the axis's name. */
export function axisTitles(layout) {
  return Object.fromEntries(axesIn(layout).map((name) => [name, layout[name].title?.text]).filter(([, text]) => text));
}

/** Titles of a plot's axes, broken into lines where they would not fit next to the axes. */
export function fittedTitles(node) {
  const across = (node.clientWidth - 90) / TITLE.letter;
  const up = (node.clientHeight - 105) / TITLE.letter;
  return Object.fromEntries(Object.entries(node.titles).map(
    ([axis, text]) => [axis, fittedText(text, Math.max(12, Math.floor(axis[0] === "x" ? across : up)))],
  ));
}

/** A text of Plotly's in at most two lines of some letters each. */
function fittedText(text, limit) {
  if (text.includes("<")) return text;
  const plain = new DOMParser().parseFromString(text, "text/html").body.textContent;
  if (plain.length <= limit) return text;
  const lines = [""];
  for (const word of plain.split(" ")) {
    const joined = `${lines.at(-1)} ${word}`.trim();
    if (joined.length <= limit || !lines.at(-1)) lines[lines.length - 1] = joined;
    else lines.push(word);
  }
  if (lines.length > 2) lines.splice(1, lines.length, lines.slice(1).join(" "));
  return lines.map((line) => plotText(line, limit)).join("<br>");
}
