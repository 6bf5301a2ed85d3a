import { makeComparison } from "./comparison.js";
import { inflate, readData } from "./decode.js";
import { makeLazy } from "./lazy.js";
import { fitToPaper } from "./output.js";
import { makeStudy } from "./study.js";
import { darkScheme } from "./theme.js";

/** Put the packed library into the page; the content policy knows it by its hash. */
async function loadPlotly() {
  const node = document.getElementById("plotly");
  const script = document.createElement("script");
  script.textContent = await (await inflate(node.textContent)).text();
  document.head.append(script);
  node.remove();
}

let views = [];

// The live page moves what the reader has set from an older report of a study to a newer one.
window.kept = () => views.map((view) => view.kept());
window.restore = (settings) => settings.forEach((each, at) => views[at]?.restore(each));

/** Start the page: what is on the screen is drawn at once, the rest when it is looked at. */
async function start() {
  const [data] = await Promise.all([readData(), loadPlotly()]);
  const lazy = makeLazy();
  const sections = Array.from(document.querySelectorAll("section.study"));
  views = sections.map((section, at) => makeStudy(section, data.studies[at], lazy));
  const compared = document.getElementById("comparison");
  const comparison = compared && makeComparison(compared, data.comparison, lazy);

  const chooser = document.getElementById("study-select");
  chooser?.addEventListener("change", async () => {
    sections.forEach((section, at) => { section.hidden = at !== Number(chooser.value); });
    await views[Number(chooser.value)].show();
    await lazy.drawVisible();
  });
  const recolour = () => {
    comparison?.recolour();
    views.forEach((view) => view.recolour());
  };
  darkScheme.addEventListener("change", recolour);
  fitToPaper(recolour);
  await views[Number(chooser?.value ?? 0)].show();
  await lazy.drawVisible();
  document.documentElement.dataset.ready = "true";
}

start();
