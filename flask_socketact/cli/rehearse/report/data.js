const runs = JSON.parse(document.getElementById("runs").textContent);
const PHASES = ["before", "during", "after"];
const $ = (id) => document.getElementById(id);

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

// Columns of numbers, little-endian, in base64.
function column(text, type) {
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
  return new type(bytes.buffer);
}

for (const run of runs) {
  const { kind, began, answering, own, failure, phase } = run.requests;
  run.kind = column(kind, Uint8Array);
  run.began = column(began, Float32Array);
  run.answering = column(answering, Float32Array);
  run.own = column(own, Float32Array);
  run.failure = column(failure, Uint16Array);
  run.phase = column(phase, Uint8Array);
  run.order = null; // requests by the time they began; computed on first use
}

// The same kinds have the same colours in all runs.
const names = [...new Set(runs.flatMap((run) => run.kinds.map((kind) => kind.name)))];
for (const run of runs) run.colours = run.kinds.map((kind) => names.indexOf(kind.name));
const chosen = new Set(names);
let failedOnly = false;
const whole = [0, Math.max(...runs.map((run) => run.seconds), 1)];
let view = [...whole];
const isShown = (run, i) => chosen.has(run.kinds[run.kind[i]].name) && (!failedOnly || run.failure[i] > 0);

// The vertical axis: powers of ten from below the shortest response time to above the longest.
let lowest = Infinity, highest = 0;
for (const run of runs) for (const seconds of run.answering) {
  if (seconds < lowest) lowest = seconds;
  if (seconds > highest) highest = seconds;
}
lowest = Math.pow(10, Math.floor(Math.log10(Math.max(lowest === Infinity ? 0.001 : lowest, 1e-4))));
highest = Math.max(Math.pow(10, Math.ceil(Math.log10(Math.max(highest, 0.01)) * 4) / 4), lowest * 10);

const duration = (seconds) =>
  seconds < 1 ? `${+(seconds * 1000).toPrecision(3)} ms` : `${+seconds.toFixed(2)} s`;

// As in the headings: with a number if there are two.
const titled = (run, number) => `${runs.length > 1 ? `${number + 1}: ` : ""}${run.title}`;
