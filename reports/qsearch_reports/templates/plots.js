/** Colours of each part of a figure on a dark ground; on a light one figures keep their own. */
const DARK = {
  seen: "#56B4E9",
  unseen: "#F0A04B",
  front: "#97A3B3",
  line: "#56B4E9",
  failed: "#FF7B72",
  outside: "#F0A04B",
  "round-line": "#56B4E9",
  "loss-0": "#56B4E9",
  "loss-1": "#9CCBE8",
  "loss-2": "#E0C069",
  "loss-3": "#F0A04B",
  "layer-0": "#56B4E9",
  "layer-1": "#F0A04B",
  "layer-2": "#3CC79A",
  "layer-3": "#E29CC8",
  "layer-4": "#D9C650",
  "layer-5": "#A9D3F5",
  "layer-6": "#C4CCD6",
  "layer-7": "#FF7B72",
  "layer-8": "#97A3B3",
  "study-0": "#56B4E9",
  "study-1": "#F0A04B",
  "study-2": "#3CC79A",
  "study-3": "#E29CC8",
  "study-4": "#D9C650",
  "study-5": "#A9D3F5",
};
const LIGHT = { seen: "#0072B2", unseen: "#C2500A" };
const darkScheme = window.matchMedia("(prefers-color-scheme: dark)");
/** Plotly's own buttons lie over legends, and no key reaches them: the page has buttons of its own. */
const PLOT_OPTIONS = { displayModeBar: false };

/** Whether figures are seen on a dark ground; paper is light. */
function isDark() {
  return darkScheme.matches && !("paper" in document.documentElement.dataset);
}

/** A colour of the page, by the name of its CSS property. */
function pageColour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

/** Colour of a part outside of figures. */
function partColour(name) {
  return (isDark() ? DARK : LIGHT)[name];
}

/** A copy of a figure in the colours of the page, without the title that its card already has. */
function themed(figure) {
  const copy = structuredClone(figure);
  const { layout } = copy;
  delete layout.title;
  layout.font = { ...layout.font, color: pageColour("--text") };
  // A legend takes what it needs above the plot.
  layout.margin = { l: 56, r: 12, b: 48, ...layout.margin, t: 14 };
  layout.legend = { ...layout.legend, font: { size: 12, ...layout.legend?.font } };
  layout.hoverlabel = {
    align: "left",
    bgcolor: pageColour("--card"),
    bordercolor: pageColour("--quiet"),
    font: { color: pageColour("--text") },
  };
  for (const axis of axesIn(layout)) {
    const { title } = layout[axis];
    if (title) layout[axis].title = { ...title, font: { size: TITLE.size, ...title.font } };
  }
  for (const text of layout.annotations ?? []) if (text.bgcolor) text.bgcolor = pageColour("--card");
  if (isDark()) copy.data.forEach(darken);
  return copy;
}

function darken(trace) {
  const colour = DARK[trace.meta] ?? (/^round-\d+$/u.test(trace.meta) ? DARK.line : null);
  if (!colour) return;
  if (trace.marker) {
    trace.marker.color = colour;
    if (trace.marker.line) trace.marker.line.color = colour;
  }
  if (trace.line) trace.line.color = colour;
  if (trace.fill) trace.fillcolor = colour;
  if (trace.error_y) trace.error_y.color = colour;
  if (trace.error_x) trace.error_x.color = colour;
}

/**
 * Draw a figure, or draw it again in other colours or with other data.
 *
 * What the reader has zoomed to and hidden stays, as long as `figure.axes` names the same axes.
 */
async function draw(node, figure) {
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
function isZoomed(node) {
  return axesIn(node._fullLayout).some((name) => {
    const { range, _rangeInitial0: start, _rangeInitial1: end } = node._fullLayout[name];
    return start !== undefined && (range[0] !== start || range[1] !== end);
  });
}

/** Names of the axes that a layout has. */
function axesIn(layout) {
  return Object.keys(layout).filter((name) => /^[xy]axis\d*$/u.test(name));
}

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

/** Draw what is on the screen, and the rest when the reader comes near, or prints. */
function makeLazy() {
  const waiting = new Map();
  const observer = new IntersectionObserver(
    (entries) => {
      for (const { target, isIntersecting } of entries) if (isIntersecting) drawNow(target);
    },
    { rootMargin: "250px" },
  );

  function drawNow(node) {
    const drawing = waiting.get(node);
    waiting.delete(node);
    observer.unobserve(node);
    return drawing?.();
  }

  window.addEventListener("beforeprint", () => {
    for (const node of [...waiting.keys()]) if (node.offsetParent) drawNow(node);
  });
  return {
    /** Call `draw` once its node is near the screen. */
    add(node, draw) {
      waiting.set(node, draw);
      observer.observe(node);
    },
    /** Whether a node was drawn, so that it has something to bring up to date. */
    isDrawn: (node) => !waiting.has(node),
    /** Draw at once what is on the screen, or just below it. */
    drawVisible() {
      const seen = [...waiting.keys()].filter((node) => {
        const { top, bottom, width } = node.getBoundingClientRect();
        return width > 0 && top < window.innerHeight && bottom > 0;
      });
      return Promise.all(seen.map(drawNow));
    },
  };
}

/** Fit figures to the paper, and back to the screen; on paper they have light colours. */
function fitToPaper(recolour) {
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
function saveFigure(figure, format, name) {
  const copy = structuredClone(figure);
  copy.layout = { ...copy.layout, paper_bgcolor: "#ffffff", plot_bgcolor: "#ffffff" };
  const scale = format === "svg" ? 1 : IMAGE.scale;
  return Plotly.downloadImage(copy, { ...IMAGE, scale, format, filename: fileName(name) });
}
