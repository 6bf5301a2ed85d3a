import { latestRows, selectedRows } from "./rows.js";

/**
 * What the reader has set in a study's section, and how a newer report takes it over.
 *
 * It is plain data, and names trials: rows and codes may be others in a newer report.
 */
export function makeKeeping(root, study, store, { budget, table }) {
  const { points } = study;
  const part = (name) => root.querySelector(`[data-part="${name}"]`);
  const trialOf = (row) => (row === null ? null : points.trial[row]);
  const latestByTrial = new Map(latestRows(study).map((row) => [points.trial[row], row]));
  const rowOf = (trial) => latestByTrial.get(trial) ?? null;

  return {
    kept() {
      const { chosen, by, pinned, round, knob, drag, progress, size } = store.state;
      return {
        budget: budget.kept(),
        table: table.kept(),
        chosen: by === "reader" ? trialOf(chosen) : null,
        pinned: trialOf(pinned),
        selected: selectedRows(study, store.state).map(trialOf),
        round: round === study.drawn_rounds.at(-1).round ? null : round,
        knob: study.knobs[knob].name,
        drag,
        progress,
        size,
        open: part("origin").open,
      };
    },
    restore(kept) {
      budget.restore(kept.budget);
      const rows = kept.selected.map(rowOf).filter((row) => row !== null);
      const knob = study.knobs.findIndex(({ name }) => name === kept.knob);
      const chosen = rowOf(kept.chosen);
      const hasRound = study.drawn_rounds.some(({ round }) => round === kept.round);
      store.set({
        ...(chosen === null ? {} : { chosen, by: "reader" }),
        ...(hasRound ? { round: kept.round } : {}),
        ...(knob < 0 ? {} : { knob }),
        pinned: rowOf(kept.pinned),
        selected: new Set(rows.map((row) => points.configuration[row])),
        drag: kept.drag,
        progress: kept.progress,
        size: kept.size ?? store.state.size,
      });
      for (const [name, value] of [["knobs", store.state.knob], ["drag", store.state.drag]]) check(part(name), value);
      for (const name of ["progress", "size"]) {
        const by = root.querySelector(`[data-switch="${name}"]`);
        if (by) check(by, store.state[name]);
      }
      part("origin").open = kept.open;
      table.restore(kept.table);
    },
  };
}

/** Check the radio button of a value. */
function check(group, value) {
  const input = Array.from(group.querySelectorAll("input")).find((each) => each.value === String(value));
  if (input) input.checked = true;
}
