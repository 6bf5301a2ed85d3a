import { addSaving } from "./figures.js";
import { draw } from "./plots.js";

/**
 * The part of the page that compares studies; each plot is drawn when the reader comes near it.
 *
 * A `select` with `data-switch` changes which figure the plot of that id shows: its values are
 * keys of `figures`, and an option's `data-label` is what a screen reader then hears of the plot.
 * `recolour()` draws again what is drawn.
 */
export function makeComparison(root, figures, lazy) {
  const plots = Array.from(root.querySelectorAll("[data-comparison]"));
  const figureIn = (node) => figures[node.dataset.comparison];
  const drawPlot = (node) => draw(node, { ...figureIn(node), axes: node.dataset.comparison });
  const redraw = (nodes) => Promise.all(nodes.filter(lazy.isDrawn).map(drawPlot));

  for (const chooser of root.querySelectorAll("select[data-switch]")) {
    const node = document.getElementById(chooser.dataset.switch);
    const take = () => {
      node.dataset.comparison = chooser.value;
      node.setAttribute("aria-label", chooser.selectedOptions[0].dataset.label);
    };
    chooser.addEventListener("change", () => {
      take();
      redraw([node]);
    });
    take(); // A browser may have kept what was chosen before the page was loaded again.
  }
  for (const node of plots) {
    lazy.add(node, () => drawPlot(node));
    addSaving(node, {
      name: () => `comparison-${node.dataset.comparison}`,
      figure: () => figureIn(node),
      redraw: () => drawPlot(node),
    });
  }
  return { recolour: () => redraw(plots) };
}
