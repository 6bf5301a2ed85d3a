/** Start the page: the chosen study is drawn at once, the others when they are chosen. */
async function start() {
  const data = await readData();
  const sections = Array.from(document.querySelectorAll("section.study"));
  const views = sections.map((section, at) => makeStudy(section, data.studies[at]));
  const comparisons = Array.from(document.querySelectorAll("[data-comparison]"));
  const drawComparison = () =>
    Promise.all(comparisons.map((node) => draw(node, data.comparison[node.dataset.comparison])));

  const chooser = document.getElementById("study-select");
  chooser?.addEventListener("change", async () => {
    sections.forEach((section, at) => { section.hidden = at !== Number(chooser.value); });
    await views[Number(chooser.value)].show();
    window.dispatchEvent(new Event("resize"));
  });
  darkScheme.addEventListener("change", () => {
    drawComparison();
    views.forEach((view) => view.recolour());
  });
  await Promise.all([drawComparison(), views[Number(chooser?.value ?? 0)].show()]);
  document.documentElement.dataset.ready = "true";
}

start();
