/** Times of a report's linked views, ms: all figures of its study are drawn, and all follow. */
const [turns, done] = arguments;

(async () => {
  const study = document.querySelector("section.study:not([hidden])");
  const part = (name) => study.querySelector(`[data-part="${name}"]`);
  const nodes = [...study.querySelectorAll("[data-figure]")].filter((node) => node.offsetParent);
  for (const node of nodes) {
    node.scrollIntoView({ block: "center" });
    await timing.frame(() => {});
    for (let waited = 0; !node.dataset.drawn && waited < 100; waited += 1) await timing.frame(() => {});
  }
  const loss = study.querySelector('[data-figure="loss"]');
  loss.scrollIntoView({ block: "center" });
  const linked = nodes.filter((node) => node.places?.size).map((node) => node.dataset.figure);
  const marked = () => Number(loss.dataset.marked.split(" ")[2]);
  const dragging = (value) => timing.frame(() => part("drag").querySelector(`[value="${value}"]`).click());
  const clear = () => part("clear").click();
  const input = () => slider.dispatchEvent(new Event("input", { bubbles: true }));
  const slider = part("slider");
  const ms = {};

  slider.value = slider.min;
  await timing.frame(input);
  ms.slider = await timing.turns(turns, () => { slider.stepUp(); input(); });
  await timing.frame(() => part("select-segments").click());
  const onFront = marked();
  clear();
  ms.front = await timing.turns(turns, () => part("select-segments").click(), clear);
  ms.key = await timing.turns(turns, () => {
    loss.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight", bubbles: true }));
  });
  await dragging("select");
  Object.assign(ms, { "box, moving": [], box: [] });
  let inBox = 0;
  for (let turn = 0; turn < turns; turn += 1) {
    const { steps, release } = await timing.drag(loss, timing.BOX);
    ms["box, moving"].push(...steps);
    ms.box.push(release);
    inBox = marked();
    await timing.frame(clear);
  }
  await dragging("pan");
  Object.assign(ms, { "pan, moving": [], pan: [] });
  for (let turn = 0; turn < turns; turn += 1) {
    const { steps, release } = await timing.drag(loss, timing.pan(turn));
    ms["pan, moving"].push(...steps);
    ms.pan.push(release);
  }
  ms.zoom = await timing.turns(turns, (turn) => Plotly.relayout(loss, { "xaxis.range": timing.range(turn) }));
  done({ ms, "linked figures": linked, "marked of the front": onFront, "marked by the box": inBox });
})().catch((error) => done({ error: String(error.stack ?? error) }));
