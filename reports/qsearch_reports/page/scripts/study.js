import { makeBudget } from "./budget.js";
import { makeDetail } from "./detail.js";
import { makeFigures } from "./figures.js";
import { makeFilters } from "./filters.js";
import { makeKeeping } from "./keep.js";
import { makeCompare } from "./pinned.js";
import { makeRounds } from "./rounds.js";
import { latestRows } from "./rows.js";
import { makeStore } from "./store.js";
import { makeTable } from "./table.js";
import { makeToolbar } from "./toolbar.js";

/** Make one study's section live. Returns what the page needs to show it and recolour it. */
export function makeStudy(root, study, lazy) {
  const store = makeStore({
    chosen: null,
    by: null,
    budget: null,
    pinned: null,
    selected: new Set(),
    round: study.drawn_rounds.at(-1)?.round ?? null,
    knob: study.knobs.findIndex(({ name }) => name === study.knob),
    layer: null,
    progress: "evaluation",
    size: study.size,
    drag: "select",
  });
  const parts = [];
  let shown = false;
  let keeping = null;

  function makeInteractive() {
    const detail = makeDetail(root, study, store);
    const table = makeTable(root, study, store);
    parts.push(detail, makeCompare(root, study, store), table);
    makeToolbar(root, study, store);
    makeRounds(root, study, store);
    makeFilters(root, study, store);
    // Last: it chooses, and all others follow.
    const budget = makeBudget(root, study, store);
    keeping = makeKeeping(root, study, store, { budget, table });
    return detail;
  }

  return {
    /** Draw on first sight: hidden elements have no size to draw into. */
    async show() {
      if (shown) return;
      shown = true;
      parts.push(makeFigures(root, study, store, lazy));
      if (latestRows(study).length) await makeInteractive().show();
    },
    kept: () => keeping?.kept() ?? null,
    restore(kept) {
      if (kept) keeping?.restore(kept);
    },
    recolour: () => Promise.all(parts.map((part) => part.recolour())),
  };
}
