/**
 * Timing of a page from within, set up before any of its own scripts run.
 *
 * `timing.drawn` is when the page had drawn itself, ms since navigation began. `timing.frame(act)` is
 * the ms from an action to the end of the next painted frame; what it returns is awaited first.
 */
window.timing = (() => {
  const made = { drawn: null };

  /** Resolve after the next frame is painted: messages wait for that, callbacks of it do not. */
  function painted() {
    return new Promise((resolve) => {
      requestAnimationFrame(() => {
        const { port1, port2 } = new MessageChannel();
        port1.onmessage = () => resolve(performance.now());
        port2.postMessage(null);
      });
    });
  }

  const quiet = () => new Promise((resolve) => { setTimeout(() => requestAnimationFrame(resolve), 40); });

  new MutationObserver(async (_, observer) => {
    if (!document.documentElement?.dataset.ready) return;
    observer.disconnect();
    made.drawn = await painted();
  }).observe(document, { attributes: true, subtree: true, attributeFilter: ["data-ready"] });

  /** The ms that an action takes to be seen. */
  made.frame = async (act) => {
    await quiet();
    const start = performance.now();
    await act();
    return (await painted()) - start;
  };

  /** The ms of several actions, of which only some count. */
  made.turns = async (count, act, undo = null) => {
    const found = [];
    for (let turn = 0; turn < count; turn += 1) {
      found.push(await made.frame(() => act(turn)));
      if (undo) await made.frame(() => undo(turn));
    }
    return found;
  };

  /** Send a mouse event to where a figure's plot area is dragged; x and y are shares of it. */
  made.mouse = (kind, figure, [x, y]) => {
    const area = figure.querySelector(".nsewdrag");
    const box = area.getBoundingClientRect();
    const at = { clientX: box.left + x * box.width, clientY: box.top + y * box.height };
    const buttons = kind === "mouseup" ? 0 : 1;
    const target = kind === "mousedown" ? area : document.querySelector(".dragcover") ?? document;
    target.dispatchEvent(new MouseEvent(kind, { ...at, buttons, button: 0, bubbles: true, cancelable: true, view: window }));
  };

  /** The ms of each step of a drag through some places, and of letting go at the last. */
  made.drag = async (figure, places) => {
    made.mouse("mousedown", figure, places[0]);
    const steps = [];
    for (const place of places.slice(1)) steps.push(await made.frame(() => made.mouse("mousemove", figure, place)));
    const release = await made.frame(() => made.mouse("mouseup", figure, places.at(-1)));
    return { steps, release };
  };

  /** A box over a quarter of the figure, from one corner to the other. */
  made.BOX = [[0.25, 0.02], [0.35, 0.4], [0.45, 0.8], [0.5, 0.98]];

  /** To the right and back again. */
  made.pan = (turn) => {
    const places = [[0.4, 0.5], [0.45, 0.5], [0.5, 0.5], [0.55, 0.5]];
    return turn % 2 ? places.reverse() : places;
  };

  /** Average bits that a zoomed figure shows: all different. */
  made.range = (turn) => [2 + turn / 20, 6];
  return made;
})();
