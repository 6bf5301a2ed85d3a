/** Make one study's section live. Returns what the page needs to show it and recolour it. */
function makeStudy(root, study) {
  const part = (name) => root.querySelector(`[data-part="${name}"]`);
  const plot = (name) => root.querySelector(`[data-figure="${name}"]`);
  const fronts = ["loss", "metric"].filter((value) => study.figures[value] && plot(value));
  const state = { row: null, knob: study.knobs.findIndex(({ name }) => name === study.knob), budget: null };
  let table = null;
  let drawn = false;

  function markFronts() {
    return Promise.all(fronts.map((value) => {
      const edges = themed(study.figures[value]).layout.shapes ?? [];
      return mark(plot(value), study, value, state.row, state.budget, edges);
    }));
  }

  function expected(row) {
    return withError(study.points.expected_loss[row], study.points.expected_loss_deviation[row]);
  }

  async function select(row) {
    state.row = row;
    const points = study.points;
    part("selected-title").textContent = `Trial ${points.trial[row]}, round ${points.round[row]}`;
    const size = (points.average_bits[row] * totalWeights(study)) / 8e6;
    const figures = [
      ["average bits", points.average_bits[row].toFixed(4)],
      ["size of the weights", `${size.toFixed(2)} MB`],
      ["loss", withError(points.loss[row], points.standard_error[row])],
      ...(points.expected_loss[row] === null ? [] : [["expected loss", expected(row)]]),
      [study.metric.name, withError(points.metric[row], points.metric_standard_error[row])],
      ["in training", points.seen[row] ? "seen" : "unseen"],
      ["segment front", points.on_front[row] ? `on it (segment ${points.segment[row]})` : `not on it (segment ${points.segment[row]})`],
      ["method", points.method[row]],
    ];
    part("figures").replaceChildren(
      ...figures.map(([name, text]) => element("div", {}, element("dt", { dir: "auto" }, name), element("dd", { dir: "auto" }, text))),
    );
    table.select(row);
    await Promise.all([showKnob(), markFronts()]);
    root.dataset.selected = row;
  }

  async function showKnob() {
    fillLegend(part("legend"), study, state.row, state.knob);
    await drawHeatmap(part("heatmap"), study, state.row, state.knob);
  }

  function pick() {
    const text = part("slider").value;
    const row = bestUnder(study, Number(text));
    state.budget = Number(text);
    const { points } = study;
    part("budget").textContent = `${state.budget.toFixed(2)} average bits`;
    part("slider").setAttribute("aria-valuetext", `${text} average bits`);
    part("pick").textContent = row === null ? "No configuration fits." :
      `Trial ${points.trial[row]} has the least ` +
      `${points.expected_loss[row] === null ? "loss" : `expected loss, ${expected(row)}; observed`}: ` +
      `${withError(points.loss[row], points.standard_error[row])} at ` +
      `${points.average_bits[row].toFixed(4)} average bits; ${study.metric.name} ` +
      `${withError(points.metric[row], points.metric_standard_error[row])}, ${points.seen[row] ? "seen" : "unseen"} in training.`;
    part("pick-command").textContent = `qsearch pick ${study.command} --bits ${text} --json`;
    part("export-command").textContent = `qsearch export ${study.command} --bits ${text} --to OUT --format packed`;
    return row === null ? markFronts() : select(row);
  }

  function makeKnobs() {
    const group = `knob-${root.dataset.study}`;
    part("knobs").replaceChildren(...study.knobs.map((knob, at) => {
      const input = element("input", { type: "radio", name: group, value: at, checked: at === state.knob });
      input.addEventListener("change", () => { state.knob = at; showKnob(); });
      return element("label", { dir: "auto" }, input, knob.name);
    }));
  }

  function makeInteractive() {
    table = makeTable(root, study, select);
    makeKnobs();
    let waiting = false;
    part("slider").addEventListener("input", () => {
      if (waiting) return;
      waiting = true;
      requestAnimationFrame(() => { waiting = false; pick(); });
    });
    part("download-configuration").addEventListener("click", () => {
      const name = `${study.name}-trial-${study.points.trial[state.row]}.json`;
      download(name, "application/json", `${JSON.stringify(rowConfiguration(study, state.row), null, 1)}\n`);
    });
    for (const button of root.querySelectorAll("[data-copy]")) {
      button.addEventListener("click", () => copyText(part(button.dataset.copy), button));
    }
    for (const value of fronts) {
      plot(value).on("plotly_click", ({ points }) => {
        const chosen = points.find((point) => point.customdata);
        if (chosen) select(chosen.customdata[0]);
      });
    }
  }

  async function drawFigures() {
    const names = Object.keys(study.figures).filter(plot);
    await Promise.all(names.map((name) => draw(plot(name), study.figures[name])));
  }

  return {
    /** Draw on first sight: hidden elements have no size to draw into. */
    async show() {
      if (drawn) return;
      drawn = true;
      await drawFigures();
      if (study.count) {
        makeInteractive();
        await pick();
      }
    },
    async recolour() {
      if (!drawn) return;
      await drawFigures();
      if (state.row === null) return;
      table.show();
      await Promise.all([showKnob(), markFronts()]);
    },
  };
}

function totalWeights(study) {
  return study.layers.reduce((sum, layer) => sum + layer.parameters, 0);
}

/** Copy a command; where the browser refuses, select it so that the reader can. */
async function copyText(node, button) {
  try {
    await navigator.clipboard.writeText(node.textContent);
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  } catch {
    getSelection().selectAllChildren(node);
  }
}
