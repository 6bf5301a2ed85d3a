import { fileName } from "./dom.js";
import { darkScheme } from "./theme.js";

/** Fit figures to the paper, and back to the screen; on paper they have light colours. */
export function fitToPaper(recolour) {
  const plots = () => Array.from(document.querySelectorAll(".plot[data-drawn]")).filter((node) => node.offsetParent);
  const toWidth = (width) => plots().forEach((node) => Plotly.relayout(node, width(node)));
  window.addEventListener("beforeprint", () => {
    document.documentElement.dataset.paper = "";
    if (darkScheme.matches) recolour();
    toWidth((node) => ({ width: Math.min(node.clientWidth, 680) }));
  });
  window.addEventListener("afterprint", () => {
    delete document.documentElement.dataset.paper;
    if (darkScheme.matches) recolour();
    toWidth(() => ({ width: null, autosize: true }));
  });
}

const IMAGE = { width: 1000, height: 560, scale: 2 };

/** Save a figure as an image: complete, with its title, in light colours. */
export function saveFigure(figure, format, name) {
  const copy = structuredClone(figure);
  copy.layout = { ...copy.layout, paper_bgcolor: "#ffffff", plot_bgcolor: "#ffffff" };
  const scale = format === "svg" ? 1 : IMAGE.scale;
  return Plotly.downloadImage(copy, { ...IMAGE, scale, format, filename: fileName(name) });
}
