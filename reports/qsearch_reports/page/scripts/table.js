import { rowConfiguration } from "./configurations.js";
import { download, element, symbol } from "./dom.js";
import { toCsv } from "./files.js";
import { toggled } from "./store.js";
import { readableSize } from "./sizes.js";
import { placesOf } from "./texts.js";
import { partColour } from "./theme.js";

const PAGE_ROWS = 25;

/** Columns of the table of evaluations that the study has something for: key in the points, heading, and how a cell reads. */
function tableColumns(study) {
  const { points } = study;
  const decimals = (value) => (value === null ? "–" : value.toFixed(placesOf(value, 4)));
  const known = (key, isValue = (value) => value !== null) => points[key].some(isValue);
  const columns = [
    { key: "trial", heading: "Trial", number: true, text: String },
    { key: "round", heading: "Round", number: true, text: String, shown: !study.python },
    { key: "average_bits", heading: "Average bits", number: true, text: decimals },
    { key: "bytes", heading: "Weight files", number: true, text: (value) => (value === null ? "–" : readableSize(value)), shown: known("bytes") },
    { key: "tokens_per_second", heading: "Tokens a second", number: true, text: (value) => (value === null ? "–" : value.toFixed(1)), shown: known("tokens_per_second") },
    { key: "loss", heading: "Loss", number: true, text: decimals },
    { key: "standard_error", heading: "± loss", number: true, text: decimals, shown: known("standard_error", Boolean) },
    { key: "estimated_loss", heading: "Estimated loss", number: true, text: decimals, shown: known("estimated_loss") },
    { key: "estimated_loss_std", heading: "± estimated loss", number: true, text: decimals, shown: known("estimated_loss") },
    { key: "metric", heading: study.metric?.name, number: true, text: decimals, shown: study.metric !== null },
    { key: "metric_standard_error", heading: "± metric", number: true, text: decimals, shown: known("metric_standard_error") },
    ...study.more_metrics.flatMap(({ key, name }) => [
      { key, heading: name, number: true, text: decimals },
      { key: `${key}_standard_error`, heading: `± ${name}`, number: true, text: decimals, shown: known(`${key}_standard_error`) },
    ]),
    { key: "seen", heading: "Seen", number: false, text: (value) => (value ? "seen" : "unseen"), shown: known("seen") },
    { key: "on_front", heading: "On front", number: false, text: (value) => (value ? "yes" : "no") },
    { key: "segment", heading: "Segment", number: true, text: String },
    { key: "method", heading: "Method", number: false, text: String },
    { key: "seconds", heading: "Seconds", number: true, text: (value) => (value === null ? "–" : value.toFixed(2)) },
  ];
  return columns.filter(({ shown = true }) => shown);
}

function compareValues(a, b) {
  if (a === null || b === null) return (a === null) - (b === null);
  if (typeof a === "string") return a.localeCompare(b);
  return Number(a) - Number(b);
}

/** Build the table of evaluations, in which the reader chooses and selects rows. */
export function makeTable(root, study, store) {
  const part = (name) => root.querySelector(`[data-part="${name}"]`);
  const columns = tableColumns(study);
  const state = { key: "average_bits", descending: false, page: 0 };
  const body = part("table").tBodies[0];
  const headings = columns.map((column) => {
    const arrow = element("span", { class: "arrow", "aria-hidden": "true" });
    const button = element("button", { type: "button", "data-sort": column.key, dir: "auto" }, column.heading, arrow);
    button.addEventListener("click", () => {
      state.descending = state.key === column.key ? !state.descending : false;
      state.key = column.key;
      state.page = 0;
      show();
    });
    return { column, arrow, cell: element("th", { scope: "col", class: column.number ? "number" : null }, button) };
  });
  const selecting = element("th", { scope: "col", class: "select" }, element("span", { class: "heading" }, "Select"));
  part("table").tHead.replaceChildren(element("tr", {}, selecting, ...headings.map(({ cell }) => cell)));

  const isSelected = (row) => store.state.selected.has(study.points.configuration[row]);

  /** Rows shown on all pages, in order. */
  function rows() {
    const all = part("rounds").value === "all";
    const frontOnly = part("front-only").checked;
    const selectedOnly = part("selected-only").checked;
    const kept = Array.from({ length: study.count }, (_, row) => row).filter(
      (row) => (all || study.points.latest[row]) && (!frontOnly || study.points.on_front[row]) &&
        (!selectedOnly || isSelected(row)),
    );
    const values = study.points[state.key];
    const sign = state.descending ? -1 : 1;
    return kept.sort((a, b) => {
      const missing = (values[a] === null) - (values[b] === null);
      return missing || sign * compareValues(values[a], values[b]) || a - b;
    });
  }

  function makeRow(row) {
    const cells = columns.map((column) => {
      const text = column.text(study.points[column.key][row]);
      if (column.key === "trial") {
        const button = element("button", { type: "button", "aria-label": `Show trial ${text}` }, text);
        return element("td", { class: "number" }, button);
      }
      if (column.key === "seen") {
        const seen = study.points.seen[row];
        const shape = symbol(seen ? "circle" : "diamond", partColour(seen ? "seen" : "unseen"));
        return element("td", {}, element("span", { class: "tag" }, shape, text));
      }
      const attributes = { class: column.number ? "number" : "text", dir: column.number ? null : "auto" };
      return element("td", { ...attributes, title: column.key === "method" ? text : null }, text);
    });
    const box = element("input", { type: "checkbox", "aria-label": `Select trial ${study.points.trial[row]}` });
    box.checked = isSelected(row);
    box.addEventListener("change", () => {
      store.set({ selected: toggled(store.state.selected, [study.points.configuration[row]]) });
    });
    const line = element("tr", { "data-row": row }, element("td", { class: "select" }, box), ...cells);
    line.addEventListener("click", ({ target }) => {
      if (!target.closest(".select")) store.set({ chosen: row, by: "reader" });
    });
    return line;
  }

  function show() {
    const sorted = rows();
    const pages = Math.max(1, Math.ceil(sorted.length / PAGE_ROWS));
    state.page = Math.min(state.page, pages - 1);
    for (const { column, arrow, cell } of headings) {
      const active = column.key === state.key;
      if (active) cell.setAttribute("aria-sort", state.descending ? "descending" : "ascending");
      else cell.removeAttribute("aria-sort");
      arrow.textContent = active ? (state.descending ? "↓" : "↑") : "";
    }
    const start = state.page * PAGE_ROWS;
    const focused = focusedPlace();
    body.replaceChildren(...sorted.slice(start, start + PAGE_ROWS).map(makeRow));
    mark();
    if (focused) focusPlace(focused);
    const turn = (label, by, open) => {
      const button = element("button", { type: "button", disabled: !open }, label);
      button.addEventListener("click", () => {
        state.page += by;
        show();
        const turns = Array.from(part("pager").querySelectorAll("button:not(:disabled)"));
        (turns.find(({ textContent }) => textContent === label) ?? turns[0])?.focus();
      });
      return button;
    };
    const range = sorted.length
      ? `${start + 1}–${Math.min(start + PAGE_ROWS, sorted.length)} of ${sorted.length.toLocaleString("en")}`
      : "no rows";
    part("pager").replaceChildren(
      turn("Previous", -1, state.page > 0),
      element("span", { "aria-live": "polite" }, range),
      turn("Next", 1, state.page < pages - 1),
    );
  }

  /** Where in the body the focus is: rows are made again, and it must not be lost with them. */
  function focusedPlace() {
    const line = document.activeElement.closest("tr");
    if (!line || line.parentElement !== body) return null;
    return { row: line.dataset.row, at: line.sectionRowIndex, tag: document.activeElement.tagName };
  }

  function focusPlace({ row, at, tag }) {
    const line = body.querySelector(`[data-row="${row}"]`) ?? body.rows[Math.min(at, body.rows.length - 1)];
    (line?.querySelector(tag) ?? part("selected-only")).focus();
  }

  function records() {
    return rows().map((row) => ({
      ...Object.fromEntries(columns.map(({ key }) => [key, study.points[key][row]])),
      configuration: rowConfiguration(study, row),
    }));
  }

  /** Mark what is chosen, pinned and selected on the page that is shown. */
  function mark() {
    const { chosen, pinned } = store.state;
    for (const line of body.rows) {
      const row = Number(line.dataset.row);
      line.classList.toggle("chosen", row === chosen);
      line.classList.toggle("pinned", row === pinned);
      line.classList.toggle("selected", isSelected(row));
      line.querySelector(".select input").checked = isSelected(row);
    }
  }

  /** Turn to the page of the chosen row, if it has one. */
  function turnToChosen() {
    const place = rows().indexOf(store.state.chosen);
    const page = Math.floor(place / PAGE_ROWS);
    if (place < 0 || page === state.page) return;
    state.page = page;
    show();
  }

  for (const name of ["rounds", "front-only", "selected-only"]) part(name).addEventListener("change", show);
  part("download-json").addEventListener("click", () => {
    download(`${study.name}-evaluations.json`, "application/json", `${JSON.stringify(records(), null, 1)}\n`);
  });
  part("download-csv").addEventListener("click", () => {
    download(`${study.name}-evaluations.csv`, "text/csv", toCsv(records()));
  });
  store.subscribe((changed) => {
    if (changed.has("chosen")) turnToChosen();
    if (changed.has("selected") && part("selected-only").checked) show();
    mark();
  });
  show();
  return {
    recolour: show,
    kept: () => ({
      key: state.key,
      descending: state.descending,
      rounds: part("rounds").value,
      frontOnly: part("front-only").checked,
      selectedOnly: part("selected-only").checked,
    }),
    restore({ key, descending, rounds, frontOnly, selectedOnly }) {
      if (columns.some((column) => column.key === key)) Object.assign(state, { key, descending });
      part("rounds").value = rounds;
      part("front-only").checked = frontOnly;
      part("selected-only").checked = selectedOnly;
      show();
      turnToChosen();
    },
  };
}
