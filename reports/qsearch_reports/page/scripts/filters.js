import { element } from "./dom.js";

/** Ranges of each axis of the parallel coordinates: together they select configurations. */
export function makeFilters(root, study, store) {
  const list = root.querySelector('[data-part="filters"]');
  const { parallel } = study;
  if (!list || !parallel) return;
  const bounds = parallel.axes.map(({ low, high }) => [low, high]);
  let own = null;

  function apply() {
    const isOpen = bounds.every(([least, most], at) => least <= parallel.axes[at].low && most >= parallel.axes[at].high);
    const inside = (value, at) => value === null || (value >= bounds[at][0] && value <= bounds[at][1]);
    const kept = parallel.rows.filter((_, place) => parallel.axes.every(({ values }, at) => inside(values[place], at)));
    own = isOpen ? new Set() : new Set(kept.map((row) => study.points.configuration[row]));
    store.set({ selected: own });
  }

  function field(axis, at, end) {
    const label = `${end ? "Most" : "Least"} ${axis.title}`;
    const value = Number((end ? axis.high : axis.low).toPrecision(6));
    const input = element("input", { type: "number", "aria-label": label, step: "any", value });
    input.addEventListener("change", () => {
      const given = input.value === "" ? NaN : Number(input.value);
      const open = end ? axis.high : axis.low;
      bounds[at][end] = Number.isNaN(given) || (end ? given >= value : given <= value) ? open : given;
      apply();
    });
    input.dataset.open = value;
    return input;
  }

  /** What an axis shows; of values that are not numbers, their places in the mean. */
  function axisText({ title, names }) {
    return names.length ? `${title} (${names.map((name, at) => `${at} ${name}`).join(", ")})` : title;
  }

  list.replaceChildren(...parallel.axes.map((axis, at) =>
    element("div", {}, element("span", { dir: "auto" }, axisText(axis)), field(axis, at, 0), "to", field(axis, at, 1))));
  store.subscribe((changed) => {
    // Another selection replaces this one.
    if (!changed.has("selected") || store.state.selected === own) return;
    parallel.axes.forEach(({ low, high }, at) => { bounds[at] = [low, high]; });
    for (const input of list.querySelectorAll("input")) input.value = input.dataset.open;
  });
}
