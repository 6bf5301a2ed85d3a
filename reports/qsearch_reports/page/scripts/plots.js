import { axesIn, axisTitles, fittedTitles } from "./axes.js";
import { settleLegend, sizes } from "./fitting.js";
import { themed } from "./theme.js";

/** Plotly's own buttons lie over legends, and no key reaches them: the page has buttons of its own. Its tips would lie over the page's. */
const PLOT_OPTIONS = { displayModeBar: false, showTips: false };

/**
 * Draw a figure, or draw it again in other colours or with other data.
 *
 * What the reader has zoomed to and hidden stays, as long as `figure.axes` names the same axes.
 */
export async function draw(node, figure) {
  const { data, layout } = themed(figure);
  const counts = {};
  for (const trace of data) {
    const part = String(trace.meta ?? trace.type).replace(/\W/gu, "-");
    counts[part] = (counts[part] ?? 0) + 1;
    trace.uid = `${part}-${counts[part]}`;
  }
  layout.uirevision = figure.axes ?? "";
  for (const axis of axesIn(layout)) layout[axis].uirevision = `${figure.axes ?? ""} ${node.resets ?? 0}`;
  node.titles = axisTitles(layout);
  for (const [axis, text] of Object.entries(fittedTitles(node))) layout[axis].title.text = text;
  await Plotly.react(node, data, layout, PLOT_OPTIONS);
  await settleLegend(node);
  if (!node.dataset.drawn) {
    node.on("plotly_relayout", () => node.onZoom?.(isZoomed(node)));
    sizes.observe(node);
  }
  node.onZoom?.(isZoomed(node));
  node.dataset.drawn = "true";
}

/** Whether the reader sees another part of a figure than it was drawn with. */
export function isZoomed(node) {
  return axesIn(node._fullLayout).some((name) => {
    const { range, _rangeInitial0: start, _rangeInitial1: end } = node._fullLayout[name];
    return start !== undefined && (range[0] !== start || range[1] !== end);
  });
}
