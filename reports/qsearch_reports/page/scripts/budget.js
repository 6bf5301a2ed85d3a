import { copyText, element, oncePerFrame } from "./dom.js";
import { bestUnder, latestRows } from "./rows.js";
import { decimalsOf, niceStep, withError } from "./texts.js";

/** Units of a budget: the sizes that it is of, by row, and how a command names it. */
function budgetUnits(study) {
  const rows = latestRows(study);
  if (!rows.length) return [];
  const { average_bits: bits, bytes } = study.points;
  const units = [{
    key: "bits", label: "average bits", sizes: bits, scale: 1, step: () => 0.05,
    option: (value) => `--bits ${value}`,
  }];
  if (rows.every((row) => bytes[row] !== null)) {
    for (const [key, scale] of [["MB", 1e6], ["GB", 1e9]]) {
      units.push({
        key, label: `${key} of weight files`, sizes: bytes, scale,
        // Never so small compared with the whole that adding it is lost in rounding.
        step: (range, most) => niceStep(range && Math.max(range, most * 1e-9)),
        option: (value) => `--bytes ${value}${key}`,
      });
    }
  }
  return units.map((unit) => withRange(unit, rows.map((row) => unit.sizes[row])));
}

/** A unit with the ends of its slider: whole steps, in which the smallest and the largest fit. */
function withRange(unit, sizes) {
  const [least, most] = [Math.min(...sizes), Math.max(...sizes)];
  const step = unit.step((most - least) / unit.scale, most / unit.scale);
  const made = { ...unit, step, digits: decimalsOf(step), limit: (value) => Number(value) * unit.scale };
  return { ...made, low: stepFor(made, least), high: stepFor(made, most) };
}

/** The first whole step of a unit in which a size fits. */
function stepFor({ scale, limit, step, digits }, size) {
  let steps = Math.ceil(Number((size / scale / step).toFixed(9)));
  const value = () => Number((steps * step).toFixed(digits));
  while (limit(value()) < size) steps += 1;
  return value();
}

/** The card in which the reader sets a budget: it chooses the best configuration within. */
export function makeBudget(root, study, store) {
  const part = (name) => root.querySelector(`[data-part="${name}"]`);
  const units = budgetUnits(study);
  let unit = units[0];
  const slider = part("slider");
  const number = part("budget-number");

  part("unit").replaceChildren(...units.map(({ key, label }) => element("option", { value: key }, label)));
  part("unit-hint").hidden = units.length > 1;

  function setUnit(key, size) {
    unit = units.find((found) => found.key === key);
    const { low, high, step, digits } = unit;
    for (const input of [slider, number]) Object.assign(input, { min: low, max: high, step });
    part("least").textContent = low.toFixed(digits);
    part("most").textContent = `${high.toFixed(digits)} ${unit.label}`;
    pick(Math.min(Math.max(stepFor(unit, size), low), high));
  }

  /** What the chosen configuration takes, in a unit's terms. */
  function chosenSize(key) {
    return units.find((found) => found.key === key).sizes[store.state.chosen];
  }

  /** Choose the best configuration within a budget, a number; in less than the least, the smallest. */
  function pick(given) {
    const best = bestUnder(study, unit.limit(given), unit.sizes);
    const tooLittle = best === null ? withUnit(given) : null;
    const taken = tooLittle ? unit.low : given;
    const shown = written(taken);
    slider.value = shown;
    number.value = shown;
    const limit = unit.limit(shown);
    part("budget").textContent = withUnit(taken);
    slider.setAttribute("aria-valuetext", `${shown} ${unit.label}`);
    store.set({
      chosen: best ?? bestUnder(study, limit, unit.sizes),
      by: "budget",
      budget: { bits: unit.key === "bits" ? limit : null, tooLittle, option: unit.option(Number(shown)) },
    });
  }

  /** A number with the unit's decimals, or with more if it has them: it is what pick would be given. */
  function written(value) {
    const rounded = value.toFixed(unit.digits);
    return Number(rounded) === value ? rounded : String(value);
  }

  function withUnit(value) {
    return `${written(value)} ${unit.key === "bits" ? "average bits" : unit.key}`;
  }

  function describe() {
    const { chosen, by, budget } = store.state;
    const isOfBudget = by === "budget";
    part("budget").classList.toggle("unused", !isOfBudget);
    const refused = isOfBudget && budget.tooLittle ? `None has at most ${budget.tooLittle}. ` : "";
    part("pick").textContent = chosen === null ? "No configuration fits." :
      `${refused}${isOfBudget ? bestText(study, chosen) : chosenText(study, chosen)}`;
    const option = isOfBudget ? budget.option : `--trial ${study.points.trial[chosen]}`;
    const inLatest = chosen !== null && study.points.latest[chosen];
    const command = (text) => (inLatest ? text : "only configurations of the last finished round can be exported");
    part("pick-command").textContent = command(`qsearch pick ${study.command} ${option} --json`);
    const used = study.python && pythonUse(study, chosen, isOfBudget ? budget.bits : null);
    part("export-command").textContent = study.python ?
      used ?? "best() returns configurations of the Pareto front; this one can be downloaded below" :
      command(`qsearch export ${study.command} ${option} --to OUT --format packed`);
    for (const button of root.querySelectorAll(".commands [data-copy]")) {
      button.disabled = !inLatest || (button.dataset.copy === "export-command" && used === null && Boolean(study.python));
    }
  }

  slider.addEventListener("input", oncePerFrame(() => pick(Number(slider.value))));
  number.addEventListener("change", () => {
    pick(Number(number.value === "" ? slider.value : number.value));
  });
  part("unit").addEventListener("change", () => setUnit(part("unit").value, chosenSize(part("unit").value)));
  for (const button of root.querySelectorAll(".commands [data-copy]")) {
    button.addEventListener("click", () => copyText(part(button.dataset.copy), button, part("copied")));
  }
  store.subscribe((changed) => {
    if (changed.has("chosen") || changed.has("by") || changed.has("budget")) describe();
  });
  const start = bestUnder(study, Number(slider.dataset.start));
  if (study.size === "bytes" && units.length > 1) part("unit").value = "MB";
  setUnit(part("unit").value, part("unit").value === "bits" ? Number(slider.dataset.start) : units[1].sizes[start]);
  return {
    kept: () => ({ unit: unit.key, value: number.value }),
    restore(kept) {
      if (!units.some(({ key }) => key === kept.unit)) return;
      part("unit").value = kept.unit;
      setUnit(kept.unit, chosenSize(kept.unit));
      pick(Number(kept.value));
    },
  };
}

/** How Python uses the best configuration within a budget, or a row that is the best for its own bits; null for another. */
export function pythonUse(study, row, budget) {
  // Decimals that the row's bits fit.
  const bits = budget ?? Math.ceil(study.points.average_bits[row] * 1e4) / 1e4;
  if (bestUnder(study, bits) !== row) return null;
  return `qsearch.quantized(model, ${study.python}.best(bits=${bits}).configuration)`;
}

/** What the budget chose, in a sentence. */
function bestText(study, row) {
  return `Trial ${study.points.trial[row]} has the least ${lossText(study, row)}`;
}

/** What the reader chose, in a sentence. */
function chosenText(study, row) {
  return `You chose trial ${study.points.trial[row]}: ${lossText(study, row)}`;
}

function lossText(study, row) {
  const { points } = study;
  const kind = points.estimated_loss[row] === null ? "loss" :
    `estimated loss, ${withError(points.estimated_loss[row], points.estimated_loss_std[row])}; observed`;
  const metric = study.metric && `${study.metric.name} ${withError(points.metric[row], points.metric_standard_error[row])}`;
  const seen = points.seen[row] === null ? null : `${points.seen[row] ? "seen" : "unseen"} in training`;
  const more = [metric, seen].filter(Boolean).join(", ");
  return `${kind}: ${withError(points.loss[row], points.standard_error[row])} at ` +
    `${points.average_bits[row].toFixed(4)} average bits${more && `; ${more}`}.`;
}
