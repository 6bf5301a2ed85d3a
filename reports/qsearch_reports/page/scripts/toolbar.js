import { latestRows, overallFront, selectedRows } from "./rows.js";
import { placesOf } from "./texts.js";

/** The bar that stays in sight: what dragging does, and what is selected. */
export function makeToolbar(root, study, store) {
  const part = (name) => root.querySelector(`[data-part="${name}"]`);
  const { points } = study;

  function describe() {
    const rows = selectedRows(study, store.state);
    const count = rows.length;
    // Not `disabled`: what is pressed last would lose the focus.
    part("clear").setAttribute("aria-disabled", store.state.selected.size === 0);
    part("selection").textContent = count === 0 ? "Nothing selected" :
      `${count.toLocaleString("en")} selected: ${rangeText(rows, points.average_bits, 2)} bits, ` +
      `${rows.some((row) => points.estimated_loss[row] !== null) ? "estimated loss" : "loss"} ` +
      `${rangeText(rows, points.selection_loss, 4)}`;
    part("selection").title = part("selection").textContent;
  }

  for (const input of part("drag").querySelectorAll("input")) {
    input.addEventListener("change", () => store.set({ drag: input.value }));
  }
  part("clear").addEventListener("click", () => store.set({ selected: new Set() }));
  const select = (rows) => store.set({ selected: new Set(rows.map((row) => points.configuration[row])) });
  part("select-front").addEventListener("click", () => select(overallFront(study)));
  part("select-segments").addEventListener("click", () =>
    select(latestRows(study).filter((row) => points.on_front[row])));
  root.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && store.state.selected.size) store.set({ selected: new Set() });
  });
  function describePinned() {
    const { pinned } = store.state;
    part("to-compare").hidden = pinned === null;
    if (pinned !== null) part("to-compare").setAttribute("aria-label", `Compare with trial ${points.trial[pinned]}`);
  }

  store.subscribe((changed) => {
    if (changed.has("selected")) describe();
    if (changed.has("pinned")) describePinned();
  });
  describe();
  followHeight(root.querySelector(".toolbar"));
}

/** Tell the style sheet how much of the window the bar covers: what is jumped to stops below it. */
function followHeight(bar) {
  new ResizeObserver(() => {
    if (bar.offsetHeight) document.documentElement.style.setProperty("--toolbar", `${bar.offsetHeight}px`);
  }).observe(bar);
}

/** The least and the greatest value of rows, as a text. */
function rangeText(rows, values, places) {
  const known = rows.map((row) => values[row]).filter((value) => value !== null);
  if (!known.length) return "–";
  const [least, most] = [Math.min(...known), Math.max(...known)].map((value) => value.toFixed(placesOf(value, places)));
  return least === most ? least : `${least}–${most}`;
}
