import { axesIn, TITLE } from "./axes.js";

const STUDIES = ["#56B4E9", "#F0A04B", "#3CC79A", "#E29CC8", "#D9C650", "#A9D3F5"];

/** Colours of each part of a figure on a dark ground; on a light one figures keep their own. */
const DARK = {
  seen: "#56B4E9",
  unseen: "#F0A04B",
  front: "#97A3B3",
  line: "#56B4E9",
  failed: "#FF7B72",
  outside: "#F0A04B",
  "round-line": "#56B4E9",
  ...numbered("loss", ["#56B4E9", "#9CCBE8", "#E0C069", "#F0A04B"]),
  ...numbered("layer", [...STUDIES, "#C4CCD6", "#FF7B72", "#97A3B3"]),
  ...numbered("study", STUDIES),
};
const LIGHT = { seen: "#0072B2", unseen: "#C2500A" };
export const darkScheme = window.matchMedia("(prefers-color-scheme: dark)");

/** Whether figures are seen on a dark ground; paper is light. */
export function isDark() {
  return darkScheme.matches && !("paper" in document.documentElement.dataset);
}

/** A colour of the page, by the name of its CSS property. */
function pageColour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

/** Colour of a part outside of figures. */
export function partColour(name) {
  return (isDark() ? DARK : LIGHT)[name];
}

/** A copy of a figure in the colours of the page, without the title that its card already has. */
export function themed(figure) {
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

/** Colours of parts that differ by a number. */
function numbered(name, colours) {
  return Object.fromEntries(colours.map((colour, at) => [`${name}-${at}`, colour]));
}
