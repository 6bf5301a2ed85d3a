import { fittedTitles } from "./axes.js";

/** Follow the size of a plot: of the window, of the letters, or of a study that is shown again. */
export const sizes = new ResizeObserver((entries) => {
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
export async function settleLegend(node) {
  const { _size: size, legend } = node._fullLayout;
  const drawn = node.querySelector(".infolayer > .legend")?.getAttribute("transform");
  if (!drawn || legend.yanchor !== "bottom") return;
  const top = Number(/,\s*(-?[\d.]+)/u.exec(drawn)?.[1]);
  const wanted = Math.max(0, size.t + size.h * (1 - legend.y) - legend._effHeight);
  if (!(Math.abs(top - wanted) > 1)) return;
  await Plotly.relayout(node, { "legend.y": legend.y + (legend.y > 1.0201 ? -0.0002 : 0.0002) });
}
