/** Draw what is on the screen, and the rest when the reader comes near, or prints. */
export function makeLazy() {
  const waiting = new Map();
  const observer = new IntersectionObserver(
    (entries) => {
      for (const { target, isIntersecting } of entries) if (isIntersecting) drawNow(target);
    },
    { rootMargin: "250px" },
  );

  function drawNow(node) {
    const drawing = waiting.get(node);
    waiting.delete(node);
    observer.unobserve(node);
    return drawing?.();
  }

  window.addEventListener("beforeprint", () => {
    for (const node of [...waiting.keys()]) if (node.offsetParent) drawNow(node);
  });
  return {
    /** Call `draw` once its node is near the screen. */
    add(node, draw) {
      waiting.set(node, draw);
      observer.observe(node);
    },
    /** Whether a node was drawn, so that it has something to bring up to date. */
    isDrawn: (node) => !waiting.has(node),
    /** Draw at once what is on the screen, or just below it. */
    drawVisible() {
      const seen = [...waiting.keys()].filter((node) => {
        const { top, bottom, width } = node.getBoundingClientRect();
        return width > 0 && top < window.innerHeight && bottom > 0;
      });
      return Promise.all(seen.map(drawNow));
    },
  };
}
