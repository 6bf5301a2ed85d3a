const PAGE_ROWS = 25;

/** Columns of the table of evaluations: key in the points, heading, and how a cell reads. */
function tableColumns(study) {
  const fixed = (digits) => (value) => (value === null ? "–" : value.toFixed(digits));
  return [
    { key: "trial", heading: "Trial", number: true, text: String },
    { key: "round", heading: "Round", number: true, text: String },
    { key: "average_bits", heading: "Average bits", number: true, text: fixed(4) },
    { key: "loss", heading: "Loss", number: true, text: fixed(4) },
    { key: "standard_error", heading: "± loss", number: true, text: fixed(4) },
    ...(study.points.expected_loss.every((value) => value === null) ? [] : [
      { key: "expected_loss", heading: "Expected loss", number: true, text: fixed(4) },
      { key: "expected_loss_deviation", heading: "± expected", number: true, text: fixed(4) },
    ]),
    { key: "metric", heading: study.metric.name, number: true, text: fixed(4) },
    { key: "metric_standard_error", heading: "± metric", number: true, text: fixed(4) },
    { key: "seen", heading: "Seen", number: false, text: (value) => (value ? "seen" : "unseen") },
    { key: "on_front", heading: "On front", number: false, text: (value) => (value ? "yes" : "no") },
    { key: "segment", heading: "Segment", number: true, text: String },
    { key: "method", heading: "Method", number: false, text: String },
    { key: "seconds", heading: "Seconds", number: true, text: fixed(2) },
  ];
}

function compareValues(a, b) {
  if (a === null || b === null) return (a === null) - (b === null);
  if (typeof a === "string") return a.localeCompare(b);
  return Number(a) - Number(b);
}

/** Build the table of evaluations; `choose(row)` is called when the reader picks a row. */
function makeTable(root, study, choose) {
  const part = (name) => root.querySelector(`[data-part="${name}"]`);
  const columns = tableColumns(study);
  const state = { key: "average_bits", descending: false, page: 0, selected: null };
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
  part("table").tHead.replaceChildren(element("tr", {}, ...headings.map(({ cell }) => cell)));

  /** Rows shown on all pages, in order. */
  function rows() {
    const all = part("rounds").value === "all";
    const frontOnly = part("front-only").checked;
    const kept = Array.from({ length: study.count }, (_, row) => row).filter(
      (row) => (all || study.points.latest[row]) && (!frontOnly || study.points.on_front[row]),
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
        const mark = symbol(seen ? "circle" : "diamond", partColour(seen ? "seen" : "unseen"));
        return element("td", {}, element("span", { class: "tag" }, mark, text));
      }
      const attributes = { class: column.number ? "number" : "text", dir: column.number ? null : "auto" };
      return element("td", { ...attributes, title: column.key === "method" ? text : null }, text);
    });
    const line = element("tr", { "data-row": row, class: row === state.selected ? "selected" : null }, ...cells);
    line.addEventListener("click", () => choose(row));
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
    body.replaceChildren(...sorted.slice(start, start + PAGE_ROWS).map(makeRow));
    const turn = (label, by, open) => {
      const button = element("button", { type: "button", disabled: !open }, label);
      button.addEventListener("click", () => {
        state.page += by;
        show();
        part("pager").querySelector("button:not(:disabled)")?.focus();
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

  function records() {
    return rows().map((row) => ({
      ...Object.fromEntries(columns.map(({ key }) => [key, study.points[key][row]])),
      configuration: rowConfiguration(study, row),
    }));
  }

  part("rounds").addEventListener("change", show);
  part("front-only").addEventListener("change", show);
  part("download-json").addEventListener("click", () => {
    download(`${study.name}-evaluations.json`, "application/json", `${JSON.stringify(records(), null, 1)}\n`);
  });
  part("download-csv").addEventListener("click", () => {
    download(`${study.name}-evaluations.csv`, "text/csv", toCsv(records()));
  });
  show();
  return {
    show,
    /** Mark a row, turning to its page if it has one. */
    select(row) {
      state.selected = row;
      const place = rows().indexOf(row);
      const page = Math.floor(place / PAGE_ROWS);
      if (place >= 0 && page !== state.page) {
        state.page = page;
        show();
      }
      for (const line of body.rows) line.classList.toggle("selected", Number(line.dataset.row) === row);
    },
  };
}

/** Records to CSV (RFC 4180); a configuration is written as JSON. */
function toCsv(records) {
  const quote = (value) => {
    const text = value === null ? "" : typeof value === "object" ? JSON.stringify(value) : String(value);
    return /[",\r\n]/u.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  const names = records.length ? Object.keys(records[0]) : [];
  return [names, ...records.map((record) => Object.values(record))]
    .map((values) => `${values.map(quote).join(",")}\r\n`)
    .join("");
}
