/** Colours of each part of a figure on a dark ground; on a light one figures keep their own. */
const DARK = {
  seen: "#56B4E9",
  unseen: "#F0A04B",
  front: "#97A3B3",
  selected: "#FFFFFF",
  budget: "#D7A6F0",
  line: "#56B4E9",
  "study-0": "#56B4E9",
  "study-1": "#F0A04B",
  "study-2": "#3CC79A",
  "study-3": "#E29CC8",
  "study-4": "#D9C650",
  "study-5": "#A9D3F5",
};
const LIGHT_BUDGET = "#7A3E9D";
const darkScheme = window.matchMedia("(prefers-color-scheme: dark)");
const PLOT_OPTIONS = {
  displaylogo: false,
  responsive: true,
  displayModeBar: "hover",
  // Named one by one: Plotly's own set has a button that uploads the chart.
  modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
};

function budgetColour() {
  return darkScheme.matches ? DARK.budget : LIGHT_BUDGET;
}

/** A copy of a figure in the colours of the page, without the title that its card already has. */
function themed(figure) {
  const copy = structuredClone(figure);
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(name).trim();
  const layout = copy.layout;
  delete layout.title;
  layout.font = { ...layout.font, color: colour("--text") };
  const legend = copy.data.filter((trace) => trace.showlegend !== false).length > 1;
  layout.margin = { l: 56, r: 12, t: legend ? 74 : 32, b: 48, ...layout.margin };
  layout.hoverlabel = {
    align: "left",
    bgcolor: colour("--card"),
    bordercolor: colour("--quiet"),
    font: { color: colour("--text") },
  };
  layout.modebar = { bgcolor: "rgba(0,0,0,0)", color: colour("--quiet"), activecolor: colour("--accent") };
  if (darkScheme.matches) copy.data.forEach(darken);
  return copy;
}

function darken(trace) {
  const colour = DARK[trace.meta];
  if (!colour) return;
  if (trace.marker) {
    trace.marker.color = colour;
    if (trace.marker.line) trace.marker.line.color = colour;
  }
  if (trace.line) trace.line.color = colour;
  if (trace.error_y) trace.error_y.color = colour;
}

/** Draw a figure, or draw it again in other colours. */
async function draw(node, figure, options = PLOT_OPTIONS) {
  const { data, layout } = themed(figure);
  await Plotly.react(node, data, layout, options);
}

/** Ring the selected row and draw the budget in a front figure. */
function mark(node, study, value, row, budget, edges) {
  const at = node.data.findIndex((trace) => trace.meta === "selected");
  const drawn = row !== null && study.points.latest[row] && study.points[value][row] !== null;
  const x = drawn ? [study.points.average_bits[row]] : [];
  const y = drawn ? [study.points[value][row]] : [];
  const line = {
    type: "line", xref: "x", yref: "paper", x0: budget, x1: budget, y0: 0, y1: 1,
    line: { color: budgetColour(), width: 2, dash: "dash" }, name: "budget",
  };
  return Plotly.update(node, { x: [x], y: [y] }, { shapes: [...edges, line] }, [at]);
}

/** Colour of a part outside of figures. */
function partColour(name) {
  return darkScheme.matches ? DARK[name] : { seen: "#0072B2", unseen: "#C2500A" }[name];
}
