/**
 * Times of a page of Plotly's own, ms: the same figures, linked by the selection that Plotly marks.
 *
 * Points carry the row of their evaluation; what is selected in one figure is set in all.
 */
const [turns, frontRows, done] = arguments;

(async () => {
  const plots = [...document.querySelectorAll(".plotly-graph-div")];
  const named = (name) => plots.find((plot) => plot.layout.meta === name);
  const isLinked = (trace) =>
    trace.customdata && !/^(layer|round|heatmap)/u.test(trace.meta ?? "") &&
    (trace.type === "bar" || trace.mode?.includes("markers"));

  /** For each figure: its linked traces, and in each the places of every row. */
  const linked = plots.map((plot) => ({
    plot,
    traces: plot.data.flatMap((trace, at) => (isLinked(trace) ? [at] : [])),
  })).filter(({ traces }) => traces.length);

  /** Where some rows are, in each linked trace: made before the clock runs. */
  function placesOf(rows) {
    const wanted = new Set(rows);
    return linked.map(({ plot, traces }) => ({
      plot,
      traces,
      selectedpoints: traces.map((at) =>
        plot.data[at].customdata.flatMap((details, point) => (wanted.has(details[0]) ? [point] : []))),
    }));
  }
  const mark = (places, except = null) => Promise.all(places.filter(({ plot }) => plot !== except).map(
    ({ plot, traces, selectedpoints }) => Plotly.restyle(plot, { selectedpoints }, traces),
  ));
  const unmark = () => Promise.all(linked.map(
    ({ plot, traces }) => Plotly.update(plot, { selectedpoints: null }, { selections: [] }, traces),
  ));

  const loss = named("loss");
  loss.scrollIntoView({ block: "center" });
  const ms = {};
  const front = placesOf(frontRows);
  ms.front = await timing.turns(turns, () => mark(front), unmark);
  const single = Array.from({ length: turns }, (_, turn) => placesOf([turn]));
  ms.key = await timing.turns(turns, (turn) => mark(single[turn]));
  await timing.frame(unmark);

  const follow = ({ points }) => mark(placesOf(points.map(({ customdata }) => customdata[0])), loss);
  await timing.frame(() => Plotly.relayout(loss, { dragmode: "select" }));
  let [following, inBox] = [null, 0];
  loss.on("plotly_selected", (selection) => {
    if (!selection?.points?.length) return;
    inBox = selection.points.length;
    following = follow(selection);
  });
  Object.assign(ms, { "box, moving": [], box: [] });
  for (let turn = 0; turn < turns; turn += 1) {
    const { steps, release } = await timing.drag(loss, timing.BOX);
    await following;
    ms["box, moving"].push(...steps);
    ms.box.push(release);
    await timing.frame(unmark);
  }
  loss.removeAllListeners("plotly_selected");
  await timing.frame(() => Plotly.relayout(loss, { dragmode: "pan" }));
  Object.assign(ms, { "pan, moving": [], pan: [] });
  for (let turn = 0; turn < turns; turn += 1) {
    const { steps, release } = await timing.drag(loss, timing.pan(turn));
    ms["pan, moving"].push(...steps);
    ms.pan.push(release);
  }
  ms.zoom = await timing.turns(turns, (turn) => Plotly.relayout(loss, { "xaxis.range": timing.range(turn) }));

  const parallel = named("parallel");
  parallel.scrollIntoView({ block: "center" });
  const { data, layout } = parallel;
  ms.parallel = await timing.turns(turns, () => Plotly.newPlot(parallel, data, layout), () => Plotly.purge(parallel));
  const canvas = document.createElement("canvas").getContext("webgl");
  const shown = canvas?.getExtension("WEBGL_debug_renderer_info");
  done({
    ms,
    "linked figures": linked.map(({ plot }) => plot.layout.meta),
    "marked of the front": front.find(({ plot }) => plot === loss).selectedpoints.flat().length,
    "marked by the box": inBox,
    webgl: shown ? canvas.getParameter(shown.UNMASKED_RENDERER_WEBGL) : null,
  });
})().catch((error) => done({ error: String(error.stack ?? error) }));
