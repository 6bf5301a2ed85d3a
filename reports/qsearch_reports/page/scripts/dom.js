/** An element with attributes and children; children are text or elements, never markup. */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

const SHAPES = {
  square: "M0 0H10V10H0Z",
  circle: "M5 1A4 4 0 1 1 5 9A4 4 0 1 1 5 1Z",
  diamond: "M5 0L10 5L5 10L0 5Z",
};

/** An SVG element. */
export function drawing(tag, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

/** A small drawn mark that goes next to its name. */
export function symbol(shape, colour) {
  const svg = drawing("svg", { viewBox: "0 0 10 10", "aria-hidden": "true" });
  svg.append(drawing("path", { d: SHAPES[shape], fill: colour }));
  return svg;
}

/** Give the reader a file, without any request. */
export function download(name, type, text) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: `${type};charset=utf-8` }));
  link.download = fileName(name);
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

/** A name that any file system takes. */
export function fileName(name) {
  return Array.from(name.replace(/[^\p{L}\p{N}._-]+/gu, "-")).slice(0, 100).join("");
}

/**
 * Copy a text; where the browser refuses, select it so that the reader can.
 *
 * The button says for a while what was done, and `said` to those who do not see it.
 */
export async function copyText(node, button, said = null) {
  let done = "Copied";
  try {
    await navigator.clipboard.writeText(node.textContent);
  } catch {
    node.focus();
    getSelection().selectAllChildren(node);
    // An older way, which pages without encryption still have.
    if (document.execCommand("copy")) button.focus();
    else done = "Selected";
  }
  button.textContent = done;
  if (said) said.textContent = done === "Copied" ? done : "It cannot be copied here; it is selected.";
  setTimeout(() => {
    button.textContent = "Copy";
    if (said) said.textContent = "";
  }, 2500);
}

/** A function that calls another at most once a frame, with the latest arguments. */
export function oncePerFrame(call) {
  let latest = null;
  return (...given) => {
    const waiting = latest !== null;
    latest = given;
    if (waiting) return;
    requestAnimationFrame(() => {
      const current = latest;
      latest = null;
      call(...current);
    });
  };
}
