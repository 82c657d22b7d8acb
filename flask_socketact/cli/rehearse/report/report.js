const LISTED = 200; // maximum of listed failures

// The names of the columns are repeated in the cells, for narrow screens.
const COLUMNS = ["clients", "began", "duration", "reason"];

function failureRow(run, i) {
  const texts = [run.kinds[run.kind[i]].name, `${run.began[i].toFixed(3)} s`, duration(run.answering[i]),
    run.reasons[run.failure[i]]];
  return element("tr", {}, ...texts.map((textContent, at) => {
    const cell = at ? element("td", { textContent }) : element("th", { scope: "row", textContent });
    cell.dataset.column = COLUMNS[at];
    return cell;
  }));
}

function listFailures(run, number) {
  const rows = [];
  let total = 0;
  for (let i = 0; i < run.began.length; i++)
    if (run.failure[i] && ++total <= LISTED) rows.push(failureRow(run, i));
  if (!total) return;
  const name = titled(run, number);
  const head = COLUMNS.map((text) => element("th", { scope: "col", textContent: text }));
  const caption = total > LISTED ? `${name}: the first ${LISTED} of ${total}` : name;
  const table = element("table", { className: "cards failures" }, element("caption", { textContent: caption }),
    element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...rows));
  const summary = element("summary", { textContent: `${name}: ${total.toLocaleString("en")} requests` });
  $("failed").children[number].append(
    element("details", { open: total <= 20 }, summary, element("div", { className: "scroll" }, table)));
}

const timelines = runs.map((run, number) => new Timeline(run, number));
const histograms = runs.map((run, number) => new Histogram(run, number));
const drawAll = () => [...timelines, ...histograms].forEach((each) => each.draw());

// Shows a range of seconds, at least a hundredth and at most the whole run.
function show([from, to]) {
  const span = Math.min(Math.max(to - from, .01), whole[1] - whole[0]);
  const start = Math.min(Math.max(from, whole[0]), whole[1] - span);
  view = [start, start + span];
  timelines.forEach((each) => each.draw());
}

names.forEach((name, i) => {
  const box = element("input", { type: "checkbox", checked: true });
  box.addEventListener("change", () => {
    if (box.checked) chosen.add(name); else chosen.delete(name);
    drawAll();
  });
  const swatch = element("span", { className: "swatch" });
  swatch.style.background = `var(--k${i % 7})`;
  $("kinds").append(element("label", {}, box, " ", swatch, name));
});
const failed = element("input", { type: "checkbox" });
failed.addEventListener("change", () => { failedOnly = failed.checked; drawAll(); });
$("kinds").append(element("label", {}, failed, " failed only"));

const zoomTo = (range, ...text) => {
  const button = element("button", { type: "button" }, ...text);
  button.addEventListener("click", () => show(range));
  $("zoom").append(button);
};
zoomTo(whole, "all");
const longest = runs.reduce((most, run) => run.restarts.length > most.restarts.length ? run : most);
longest.restarts.forEach((_, i) => {
  const parts = runs.map((run) => run.restarts[i]).filter(Boolean);
  const from = Math.min(...parts.map((part) => part.began));
  const to = Math.max(...parts.map((part) => part.ended));
  zoomTo([from - 1, to + 1], element("span", { className: "word", textContent: "restart " }), `${i + 1}`);
});

runs.forEach(listFailures);
drawAll();
window.addEventListener("resize", drawAll);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
document.documentElement.dataset.drawn = String(Math.round(performance.now())); // milliseconds since it was opened
