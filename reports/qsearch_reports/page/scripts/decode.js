/** The bytes of a base64 text that holds what zlib compressed. */
export async function inflate(text) {
  const characters = atob(text);
  const bytes = new Uint8Array(characters.length);
  // A plain loop: Uint8Array.from takes ten times as long.
  for (let at = 0; at < bytes.length; at += 1) bytes[at] = characters.charCodeAt(at);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream);
}

/** Read the page's data and unpack every study's configurations. */
export async function readData() {
  const packed = document.getElementById("report-data").textContent;
  const data = await (await inflate(packed)).json();
  for (const study of data.studies) {
    study.choiceIndices = await unpack(study.configurations);
    study.count = study.points.trial.length;
  }
  return data;
}

/** Compressed little-endian integers to an array of numbers. */
async function unpack({ width, data }) {
  const buffer = await (await inflate(data)).arrayBuffer();
  const view = new DataView(buffer);
  const numbers = new Uint32Array(buffer.byteLength / width);
  for (let at = 0; at < numbers.length; at += 1) {
    numbers[at] = width === 2 ? view.getUint16(2 * at, true) : view.getUint32(4 * at, true);
  }
  return numbers;
}

/** A figure with its columns filled in: what it shares with the points is not written twice. */
export function filled(study, figure) {
  const { points } = study;
  return {
    layout: figure.layout,
    data: figure.data.map((trace) => {
      const { rows } = trace;
      if (!rows) return trace;
      const read = (value) => (value?.column ? rows.map((row) => (row < 0 ? null : points[value.column][row])) : value);
      const made = { ...trace, x: read(trace.x), y: read(trace.y) };
      delete made.rows;
      for (const error of ["error_x", "error_y"]) {
        if (trace[error]) made[error] = { ...trace[error], array: read(trace[error].array) };
      }
      const columns = trace.customdata.map(read);
      made.customdata = rows.map((row, at) => [row, ...columns.map((column) => column[at])]);
      return made;
    }),
  };
}
