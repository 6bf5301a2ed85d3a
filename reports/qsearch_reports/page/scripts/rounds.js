/** The slider over rounds: Pareto fronts show the round that it is at, and it can play them in turn. */
export function makeRounds(root, study, store) {
  const part = (name) => root.querySelector(`[data-part="${name}"]`);
  const slider = part("round");
  if (!slider) return;
  const play = part("play-rounds");
  const rounds = study.drawn_rounds;
  let timer = null;

  function show() {
    const at = rounds.findIndex(({ round }) => round === store.state.round);
    const { round, configurations, hypervolume } = rounds[at];
    slider.value = at;
    const text = `Round ${round}: ${configurations} configuration${configurations === 1 ? "" : "s"}` +
      (hypervolume === null ? "" : `, hypervolume ${hypervolume.toFixed(4)}`);
    part("round-text").textContent = text;
    slider.setAttribute("aria-valuetext", text);
  }

  function stop() {
    clearInterval(timer);
    timer = null;
    play.textContent = "Play";
  }

  slider.addEventListener("input", () => {
    stop();
    store.set({ round: rounds[Number(slider.value)].round });
  });
  play.addEventListener("click", () => {
    if (timer) {
      stop();
      return;
    }
    play.textContent = "Stop";
    const last = rounds.length - 1;
    store.set({ round: rounds[0].round });
    timer = setInterval(() => {
      const next = Number(slider.value) + 1;
      store.set({ round: rounds[Math.min(next, last)].round });
      if (next >= last) stop();
    }, 1100);
  });
  store.subscribe((changed) => {
    if (changed.has("round")) show();
  });
  show();
}
