const MARGIN = { right: 14, top: 46, bottom: 44 }; // Chart.prepare adds the left one
const GAP = 4; // least distance of two labels, in pixels
const EDGE = 4; // and from the edge of the chart

function palette() {
  const style = getComputedStyle(document.documentElement);
  const get = (name) => style.getPropertyValue(name).trim();
  return { text: get("--text"), soft: get("--soft"), line: get("--line"), band: get("--band"), bad: get("--bad"),
    page: get("--page"), kinds: names.map((_, i) => get(`--k${i % 7}`)) };
}

function niceStep(span, marks) {
  const rough = span / marks;
  const power = Math.pow(10, Math.floor(Math.log10(rough)));
  return [1, 2, 5, 10].map((factor) => factor * power).find((step) => step >= rough);
}

// A canvas, and the labels on it: elements, so that they are as sharp and as large as other text.
class Chart {
  constructor(run, number, place) {
    this.run = run;
    this.canvas = element("canvas");
    this.canvas.setAttribute("role", "img");
    this.labels = element("div", { className: "labels" });
    this.labels.setAttribute("aria-hidden", "true"); // the canvas has a name
    this.figure = element("figure", {}, element("figcaption", { textContent: titled(run, number) }),
      element("div", { className: "chart" }, this.canvas, this.labels));
    $(place).append(this.figure);
  }

  // Empties the chart; makes the canvas as sharp as the screen, its context in CSS pixels.
  prepare() {
    const ratio = window.devicePixelRatio || 1;
    const { width, height } = this.canvas.getBoundingClientRect();
    this.canvas.width = Math.round(width * ratio);
    this.canvas.height = Math.round(height * ratio);
    const context = this.canvas.getContext("2d");
    context.scale(ratio, ratio);
    const { fontSize, fontFamily } = getComputedStyle(this.labels);
    context.font = `${fontSize} ${fontFamily}`;
    MARGIN.left = Math.max(62, context.measureText("generation").width + 10);
    Object.assign(this, { context, width, height, inner: width - MARGIN.left - MARGIN.right, placed: [] });
    this.labels.replaceChildren();
  }

  // Returns those labels that fit between `from` and `to` without touching another, each with the first text that fits.
  // `align` is the part of the text that is to the left of `x`.
  fitting(labels) {
    const placed = [...this.placed];
    for (const { texts, x, y, align, from = EDGE, to = this.width - EDGE, bad } of labels) {
      for (const text of texts) {
        const wide = this.context.measureText(text).width;
        const left = Math.max(Math.min(x - wide * align, to - wide), from), right = left + wide;
        const touches = (other) => other.y === y && left < other.right + GAP && other.left < right + GAP;
        if (right > to || placed.some(touches)) continue;
        placed.push({ text, left, right, y, bad });
        break;
      }
    }
    return placed.slice(this.placed.length);
  }

  write(labels) {
    const fitting = this.fitting(labels);
    this.placed.push(...fitting);
    this.labels.append(...fitting.map(({ text, left, y, bad }) => {
      const label = element("span", { textContent: text, className: bad ? "bad" : "" });
      label.style.left = `${left}px`;
      label.style.top = `${y}px`;
      return label;
    }));
  }
}
