/** Put the packed library into the page; the content policy knows it by its hash. */
async function loadPlotly() {
  const node = document.getElementById("plotly");
  const script = document.createElement("script");
  script.textContent = await (await inflate(node.textContent)).text();
  document.head.append(script);
  node.remove();
}

let views = [];

/** What the reader has set, for a newer report of the same studies. */
function kept() {
  return views.map((view) => view.kept());
}

/** Set what the reader has set in an older report. */
function restore(settings) {
  settings.forEach((each, at) => views[at]?.restore(each));
}

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
