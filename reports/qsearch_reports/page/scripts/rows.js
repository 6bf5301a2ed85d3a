/** Rows of a study's points: of the last finished round, of the Pareto front, within a budget, selected. */

/** Rows of the last finished round. */
export function latestRows(study) {
  return Array.from({ length: study.count }, (_, row) => row).filter(
    (row) => study.points.latest[row],
  );
}

/** The row that qsearch.deployment.selection.best_under chooses: of least selection loss whose size is within a budget. */
export function bestUnder(study, budget, sizes = study.points.average_bits) {
  const { average_bits: bits, selection_loss: selection, loss } = study.points;
  // Ties go to fewer average bits, and then to the least observed loss.
  const isBetter = (a, b) => (selection[a] - selection[b] || bits[a] - bits[b] || loss[a] - loss[b]) < 0;
  let best = null;
  for (const row of latestRows(study)) {
    if (selection[row] === null || sizes[row] > budget) continue;
    if (best === null || isBetter(row, best)) best = row;
  }
  return best;
}

/** Rows of the overall Pareto front: configurations that no other one dominates. */
export function overallFront(study) {
  const { average_bits: bits, selection_loss: selection } = study.points;
  let least = Infinity;
  return latestRows(study).filter((row) => selection[row] !== null)
    .sort((a, b) => bits[a] - bits[b] || selection[a] - selection[b])
    .filter((row) => {
      if (selection[row] >= least) return false;
      least = selection[row];
      return true;
    });
}

/** Rows of the last finished round whose configuration is selected. */
export function selectedRows(study, { selected }) {
  return latestRows(study).filter((row) => selected.has(study.points.configuration[row]));
}

/** Configurations that a round trained on. */
export function trainingSet(study, round) {
  return new Set(study.training_sets[round] ?? []);
}
