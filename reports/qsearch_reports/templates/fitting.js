/** Follow the size of a plot: of the window, of the letters, or of a study that is shown again. */
const sizes = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    const { width, height } = target._fullLayout ?? {};
    const isSame = Math.abs(target.clientWidth - width) < 1 && Math.abs(target.clientHeight - height) < 1;
    // On paper, widths are set.
    if (target.clientWidth && !isSame && !target.layout.width) refit(target);
  }
});

async function refit(node) {
  await Plotly.Plots.resize(node);
  const changes = {};
  for (const [axis, text] of Object.entries(fittedTitles(node))) {
    if (node.layout[axis].title.text !== text) changes[`${axis}.title.text`] = text;
  }
  if (Object.keys(changes).length) await Plotly.relayout(node, changes);
  await settleLegend(node);
}

/** Plotly leaves a legend where it was when the margin above the plot has shrunk: move it. */
async function settleLegend(node) {
  const { _size: size, legend } = node._fullLayout;
  const drawn = node.querySelector(".infolayer > .legend")?.getAttribute("transform");
  if (!drawn || legend.yanchor !== "bottom") return;
  const top = Number(/,\s*(-?[\d.]+)/u.exec(drawn)?.[1]);
  const wanted = Math.max(0, size.t + size.h * (1 - legend.y) - legend._effHeight);
  if (!(Math.abs(top - wanted) > 1)) return;
  await Plotly.relayout(node, { "legend.y": legend.y + (legend.y > 1.0201 ? -0.0002 : 0.0002) });
}

/** Size of an axis's title, and about how wide a letter of it is, in pixels. */
const TITLE = { size: 13, letter: 7.2 };

/** The title of each axis of a layout, by the axis's name. */
function axisTitles(layout) {
  return Object.fromEntries(axesIn(layout).map((name) => [name, layout[name].title?.text]).filter(([, text]) => text));
}

/** Titles of a plot's axes, broken into lines where they would not fit beside the axes. */
function fittedTitles(node) {
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
