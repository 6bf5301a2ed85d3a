import { filled } from "./decode.js";
import { element } from "./dom.js";
import { AS_BEFORE, linkPlot, refreshMarks } from "./links.js";
import { drawMarks, isOfEvaluations } from "./marks.js";
import { saveFigure } from "./output.js";
import { draw } from "./plots.js";

/** What a study's figures are drawn from, and how each follows the reader. */

/** The figure that is shown under a key: the one of the round, knob or switch that is chosen. */
function figureOf(study, key, state) {
  const found = study.figures[key];
  if (!found?.variants) return found;
  const name = { round: `${state.round} ${state.size}`, knob: study.knobs[state.knob].name }[found.by] ?? state[found.by];
  return found.variants[name];
}

/** Draw a study's figures when the reader comes near them, and keep them up to date. */
export function makeFigures(root, study, store, lazy) {
  const nodes = Array.from(root.querySelectorAll("[data-figure]")).filter(
    (node) => study.figures[node.dataset.figure],
  );

  async function drawOne(node) {
    const key = node.dataset.figure;
    const figure = filled(study, figureOf(study, key, store.state));
    figure.data = figure.data.map((trace) => (/^(scatter|bar)$/u.test(trace.type) ? { ...trace, ...AS_BEFORE } : trace));
    figure.layout = { ...figure.layout, dragmode: dragIn(figure.data, store.state) };
    // Rounds share their axes; what a switch or a knob shows has others.
    const { by } = study.figures[key];
    figure.axes = by ? String(store.state[by === "round" ? "size" : by]) : key;
    const isFirst = !node.dataset.drawn;
    await draw(node, figure);
    caption(node).textContent = figure.layout.title?.subtitle?.text ?? "";
    if (isFirst) linkPlot(node, study, store);
    refreshMarks(node, study, store);
  }

  for (const node of nodes) {
    lazy.add(node, () => drawOne(node));
    addSaving(node, {
      name: () => `${study.name}-${node.dataset.figure}`,
      figure: () => filled(study, figureOf(study, node.dataset.figure, store.state)),
      redraw: () => drawOne(node),
    });
  }
  const drawnNodes = () => nodes.filter(lazy.isDrawn);

  for (const group of root.querySelectorAll("[data-switch]")) {
    for (const input of group.querySelectorAll("input")) {
      input.addEventListener("change", () => store.set({ [group.dataset.switch]: input.value }));
    }
  }
  store.subscribe((changed) => {
    for (const node of drawnNodes()) {
      const { by } = study.figures[node.dataset.figure];
      if (by && (changed.has(by) || (by === "round" && changed.has("size")))) drawOne(node);
      else if (changed.has("drag")) Plotly.relayout(node, { dragmode: dragIn(node.data, store.state) });
      else if (["chosen", "pinned", "selected", "layer", "knob"].some((key) => changed.has(key))) {
        drawMarks(node, study, store.state);
      }
    }
  });
  return { recolour: () => Promise.all(drawnNodes().map(drawOne)) };
}

/** The line under a figure that sums it up: what its subtitle says where it has a title. */
function caption(node) {
  const next = node.nextElementSibling;
  if (next?.classList.contains("caption")) return next;
  const made = element("p", { class: "caption" });
  node.after(made);
  return made;
}

/** What dragging does in a figure: where nothing can be selected, it zooms. */
function dragIn(traces, { drag }) {
  const canSelect = traces.some((trace) => isOfEvaluations(trace) && trace.customdata?.some((details) => details?.[0] >= 0));
  return canSelect || drag === "pan" ? drag : "zoom";
}

/** Buttons next to a figure's heading: to show all of it again, and to save it as an image. */
export function addSaving(node, { name, figure, redraw }) {
  const head = headOf(node);
  const heading = head.querySelector("h2, h3");
  const buttons = ["PNG", "SVG"].map((format) => {
    const label = `Save the figure "${heading.textContent}" as ${format}`;
    const button = element("button", { type: "button", "aria-label": label, "data-save": format.toLowerCase() }, format);
    button.addEventListener("click", () => saveFigure(figure(), format.toLowerCase(), name()));
    return button;
  });
  const reset = element("button", { type: "button", "aria-label": `Reset the zoom of "${heading.textContent}"`, "data-reset": "" }, "Reset zoom");
  reset.hidden = true;
  reset.addEventListener("click", async () => {
    node.resets = (node.resets ?? 0) + 1;
    node.focus({ preventScroll: true });
    await redraw();
  });
  node.onZoom = (isZoomed) => { reset.hidden = !isZoomed; };
  head.append(element("div", { class: "saving" }, reset, ...buttons));
}

/** The line of the heading that a figure is under. */
function headOf(node) {
  for (let before = node.previousElementSibling; before; before = before.previousElementSibling) {
    if (before.classList.contains("head")) return before;
    if (/^H[23]$/u.test(before.tagName)) {
      const head = element("div", { class: "head plain" });
      before.replaceWith(head);
      head.append(before);
      return head;
    }
  }
  throw new Error(`the figure ${node.dataset.figure} has no heading`);
}
