import { copyText } from "./dom.js";

/** A word as a POSIX shell takes it literally; as Python's shlex.quote writes it. */
function shellQuote(text) {
  if (text === "") return "''";
  if (/^[A-Za-z0-9_@%+=:,./-]+$/.test(text)) return text;
  return `'${text.replaceAll("'", "'\"'\"'")}'`;
}

/** The command that compares studies. */
function reportCommand(directories) {
  return ["qsearch", "report", ...directories.map(shellQuote)].join(" ");
}

/** Places of rows in the order of one of their values: missing ones last, equal ones as they were. */
function sortedRows(rows, key, descending) {
  const sign = descending ? -1 : 1;
  const collator = new Intl.Collator("en", { numeric: true, sensitivity: "base" });
  const isMissing = (value) => value === null || value === "";
  return rows
    .map((_, at) => at)
    .sort((a, b) => {
      const [first, second] = [rows[a][key], rows[b][key]];
      const missing = isMissing(first) - isMissing(second);
      if (missing || isMissing(first)) return missing || a - b;
      const order = typeof first === "string" ? collator.compare(first, second) : first - second;
      return sign * order || a - b;
    });
}

/** Whether a text holds all words of a query, whatever their case. */
function holdsWords(text, query) {
  return query.toLowerCase().split(/\s+/u).every((word) => text.includes(word));
}

/** Let the reader sort, search, filter and choose. */
function makeIndex({ rows, choices }) {
  const byId = (id) => document.getElementById(id);
  const body = document.querySelector(".studies tbody");
  const lines = Array.from(body.rows);
  const boxes = lines.map((line) => line.querySelector("input"));
  const texts = lines.map((line) => line.textContent.replace(/\s+/gu, " ").toLowerCase());
  const filters = Array.from(document.querySelectorAll("[data-filter]"));
  const headings = Array.from(document.querySelectorAll("[data-sort]"));
  const sorting = { key: null, descending: false };
  const studies = (count) => `${count.toLocaleString("en")} stud${count === 1 ? "y" : "ies"}`;

  function sort() {
    for (const button of headings) {
      const active = button.dataset.sort === sorting.key;
      const order = sorting.descending ? "descending" : "ascending";
      if (active) button.parentElement.setAttribute("aria-sort", order);
      else button.parentElement.removeAttribute("aria-sort");
      button.querySelector(".arrow").textContent = active ? (sorting.descending ? "↓" : "↑") : "";
    }
    body.replaceChildren(...sortedRows(rows, sorting.key, sorting.descending).map((at) => lines[at]));
  }

  function filter() {
    const wanted = filters
      .filter((select) => select.value !== "")
      .map((select) => [select.dataset.filter, choices[select.dataset.filter][Number(select.value)]]);
    let shown = 0;
    lines.forEach((line, at) => {
      const fits = holdsWords(texts[at], byId("search").value) && wanted.every(([key, value]) => rows[at][key] === value);
      line.hidden = !fits;
      shown += fits;
    });
    const all = studies(lines.length);
    byId("count").textContent = shown === lines.length ? all : `${shown.toLocaleString("en")} of ${all}`;
    byId("none").hidden = shown > 0;
    showChosen();
  }

  /** Studies that can be chosen and are shown. */
  function offered() {
    return boxes.filter((box, at) => !box.disabled && !lines[at].hidden);
  }

  function showChosen() {
    // In the order of the table, as the reader sees it.
    const chosen = Array.from(body.rows, (line) => lines.indexOf(line)).filter((at) => boxes[at].checked);
    const hidden = chosen.filter((at) => lines[at].hidden).length;
    const all = byId("choose-all");
    const checked = offered().filter((box) => box.checked).length;
    all.checked = checked > 0 && checked === offered().length;
    all.indeterminate = checked > 0 && !all.checked;
    byId("command-line").hidden = chosen.length === 0;
    byId("command").textContent = reportCommand(chosen.map((at) => rows[at].directory));
    byId("chosen").textContent = chosen.length
      ? `${studies(chosen.length)} chosen${hidden ? `, ${hidden} of them not shown` : ""}.`
      : "Choose studies in the table.";
  }

  function reset() {
    byId("search").value = "";
    for (const select of filters) select.value = "";
    filter();
    byId("search").focus();
  }

  for (const button of headings) {
    button.addEventListener("click", () => {
      const again = button.dataset.sort === sorting.key;
      Object.assign(sorting, { key: button.dataset.sort, descending: again && !sorting.descending });
      sort();
      showChosen();
    });
  }
  byId("search").addEventListener("input", filter);
  for (const select of filters) select.addEventListener("change", filter);
  byId("reset").addEventListener("click", reset);
  byId("reset-none").addEventListener("click", reset);
  body.addEventListener("change", showChosen);
  byId("choose-all").addEventListener("change", ({ target }) => {
    for (const box of offered()) box.checked = target.checked;
    showChosen();
  });
  byId("copy").addEventListener("click", ({ target }) => copyText(byId("command"), target));
  filter();
}

const indexData = document.getElementById("index-data");
if (indexData) makeIndex(JSON.parse(indexData.textContent));
document.documentElement.dataset.ready = "true";
