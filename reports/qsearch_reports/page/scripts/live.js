/** The live page: asks how far the study is, and shows its report again when the results change. */
const EVERY = 2000;
const PATIENCE = 5000; // A report that takes longer to draw itself is seen doing it.
const at = (id) => document.getElementById(id);
let shown = null;
let coming = null;

function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function phaseText(status) {
  if (status.problem) return status.problem;
  if (status.running) return status.phase_text || "starting";
  if (status.finished) return `finished: ${status.finished}`;
  return status.died ? "not running: its process died" : "not running";
}

function showStatus(status) {
  setText(at("name"), status.name ?? "qsearch");
  document.title = status.name ? `${status.name} · qsearch` : "qsearch";
  setText(at("phase"), phaseText(status));
  setText(at("left"), status.left_text ? `time left: ${status.left_text}` : "");
  const phase = status.running ? status.phase : null;
  at("bar").hidden = !phase?.total;
  if (phase?.total) at("bar").value = phase.done / phase.total;
  const of = status.rounds === null ? "" : ` of ${status.rounds}`;
  const rounds = status.rounds_finished === null ? "" : `${status.rounds_finished}${of} rounds finished, `;
  const counts = status.problem ? "" : `${rounds}${status.completed} evaluations`;
  setText(at("counts"), counts);
  showFailures(status.failures ?? []);
}

function showFailures(failures) {
  const count = failures.reduce((sum, failure) => sum + failure.count, 0);
  at("failures").hidden = count === 0;
  setText(at("failures").querySelector("summary"), `${count} failed`);
  const texts = failures.map(({ reason, count: times }) => `${times} × ${reason}`);
  const list = at("failures").querySelector("ul");
  if (JSON.stringify(texts) === list.dataset.texts) return;
  list.dataset.texts = JSON.stringify(texts);
  list.replaceChildren(...texts.map((text) => {
    const item = document.createElement("li");
    item.dir = "auto";
    item.textContent = text;
    return item;
  }));
}

/** Load the report next to the one that is shown, and swap them once it has drawn itself. */
function showReport(version) {
  at("empty").hidden = version !== null || shown !== null;
  if (version === null || version === shown || coming !== null) return;
  coming = version;
  const frame = document.createElement("iframe");
  frame.title = "The study's report";
  frame.className = "coming";
  frame.addEventListener("load", () => swap(frame, version), { once: true });
  frame.src = "report.html";
  at("frames").append(frame);
}

async function swap(frame, version) {
  const page = frame.contentDocument;
  const isReport = Boolean(page?.querySelector("section.study"));
  const isDrawn = () => Boolean(page.documentElement.dataset.ready);
  const end = Date.now() + PATIENCE;
  while (isReport && !isDrawn() && Date.now() < end) {
    await new Promise((done) => { setTimeout(done, 100); });
  }
  const old = at("frames").querySelector("iframe:not(.coming)");
  coming = null;
  if (!isReport) {
    frame.remove(); // The report could not be made; the next question tries again.
    return;
  }
  if (old) {
    if (isDrawn()) frame.contentWindow.restore?.(old.contentWindow.kept?.() ?? []);
    frame.contentWindow.scrollTo(old.contentWindow.scrollX, old.contentWindow.scrollY);
  }
  frame.className = "";
  old?.remove();
  shown = version;
  document.documentElement.dataset.version = version;
}

async function ask() {
  try {
    const response = await fetch("status.json");
    const status = await response.json();
    showStatus(status);
    showReport(status.version);
  } catch {
    setText(at("phase"), "qsearch serve does not answer; what is shown may be old");
  }
  setTimeout(ask, EVERY);
}

ask();
