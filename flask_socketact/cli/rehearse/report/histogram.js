class Histogram extends Chart {
  constructor(run, number) {
    super(run, number, "histograms");
    this.table = element("table", { className: "numbers" });
    this.body = element("tbody");
    const head = ["", "requests", "p50", "p99", "max"].map((text) => element("th", { scope: "col", textContent: text }));
    this.table.append(element("caption", { textContent: "The same in numbers" }),
      element("thead", {}, element("tr", {}, ...head)), this.body);
    this.figure.append(element("div", { className: "scroll" }, this.table));
  }

  draw() {
    this.prepare();
    const { context, run, height, inner } = this, colours = palette();
    const bins = 60, room = (height - 30) / 3;
    const counts = PHASES.map(() => new Uint32Array(bins)), times = PHASES.map(() => []);
    for (let i = 0; i < run.began.length; i++) {
      if (!isShown(run, i)) continue;
      const part = Math.log(Math.max(run.answering[i], lowest) / lowest) / Math.log(highest / lowest);
      counts[run.phase[i]][Math.min(bins - 1, Math.floor(part * bins))]++;
      times[run.phase[i]].push(run.answering[i]);
    }
    PHASES.forEach((name, phase) => {
      const bottom = (phase + 1) * room, most = Math.max(...counts[phase], 1);
      this.write([{ texts: [name], x: 8, y: bottom - 8, align: 0 }]);
      context.fillStyle = colours.kinds[0];
      counts[phase].forEach((count, bin) => {
        const tall = count ? Math.max(1.5, count / most * (room - 14)) : 0;
        context.fillRect(MARGIN.left + bin * inner / bins, bottom - tall, inner / bins - 1, tall);
      });
      context.fillStyle = colours.line;
      context.fillRect(MARGIN.left, bottom, inner, 1);
    });
    for (let value = lowest; value <= highest * 1.001; value *= 10) {
      const x = MARGIN.left + Math.log(value / lowest) / Math.log(highest / lowest) * inner;
      this.write([{ texts: [duration(value)], x, y: height - 14, align: .5, from: MARGIN.left - 18 }]);
    }
    this.fill(times);
  }

  fill(times) {
    const told = [];
    this.body.replaceChildren(...PHASES.map((name, phase) => {
      const sorted = Float32Array.from(times[phase]).sort();
      const at = (part) => sorted.length ? duration(sorted[Math.max(0, Math.ceil(sorted.length * part) - 1)]) : "–";
      const cells = [sorted.length.toLocaleString("en"), at(.5), at(.99), at(1)];
      told.push(`${name}: ${cells[0]} requests, p99 ${cells[2]}`);
      return element("tr", {}, element("th", { scope: "row", textContent: name }),
        ...cells.map((text) => element("td", { textContent: text })));
    }));
    this.canvas.setAttribute("aria-label", `Response times of ${this.run.title}. ${told.join("; ")}`);
  }
}
