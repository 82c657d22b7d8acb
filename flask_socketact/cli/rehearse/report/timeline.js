const HOVER = 12; // distance from a dot at which it is selected, in pixels

class Timeline extends Chart {
  constructor(run, number) {
    super(run, number, "timelines");
    this.canvas.tabIndex = 0;
    this.canvas.setAttribute("aria-label", `Every request of ${run.title}. ${run.verdict.sentence}`);
    this.canvas.setAttribute("aria-describedby", "how");
    this.selected = -1;
    this.drag = null;
    this.canvas.addEventListener("pointerdown", (event) => this.press(event));
    this.canvas.addEventListener("pointermove", (event) => this.move(event));
    this.canvas.addEventListener("pointerup", (event) => this.release(event));
    this.canvas.addEventListener("pointercancel", () => { this.drag = null; this.draw(); });
    this.canvas.addEventListener("dblclick", () => show(whole));
    this.canvas.addEventListener("keydown", (event) => this.key(event));
  }

  x(seconds) { return MARGIN.left + (seconds - view[0]) / (view[1] - view[0]) * this.inner; }
  y(seconds) {
    const part = Math.log(Math.max(seconds, lowest) / lowest) / Math.log(highest / lowest);
    return this.height - MARGIN.bottom - part * (this.height - MARGIN.top - MARGIN.bottom);
  }
  seconds(x) { return view[0] + (x - MARGIN.left) / this.inner * (view[1] - view[0]); }

  draw() {
    this.prepare();
    const { context, height } = this, colours = palette();
    this.drawRestarts(colours);
    this.drawGenerations(colours);
    this.drawAxes(colours);
    context.save();
    context.beginPath();
    context.rect(MARGIN.left, 0, this.inner, height);
    context.clip();
    this.drawRequests(colours);
    this.drawClosed(colours);
    if (this.selected >= 0) this.drawSelected(colours);
    if (this.drag) {
      context.fillStyle = colours.band;
      context.fillRect(this.drag.from, MARGIN.top, this.drag.to - this.drag.from, height - MARGIN.top - MARGIN.bottom);
    }
    context.restore();
  }

  drawRestarts(colours) {
    const { context, run, height } = this, begin = MARGIN.left, end = MARGIN.left + this.inner;
    context.fillStyle = colours.band;
    const labels = [];
    run.restarts.forEach(({ began, ended, status }, i) => {
      const left = Math.max(this.x(began), begin), right = Math.min(Math.max(this.x(ended), this.x(began) + 2), end);
      if (right <= left) return;
      context.fillRect(left, MARGIN.top, right - left, height - MARGIN.top - MARGIN.bottom);
      const number = i + 1, bad = status !== 0;
      labels.push({ number, bad, texts: [`restart ${number}${bad ? " failed" : ""}`], short: `${number}${bad ? " ✘" : ""}`,
        from: left + 2, to: end });
    });
    this.writeRow("restart", 32, labels);
  }

  // A line for each generation: from the end of the restart that began it to the end of the next.
  drawGenerations(colours) {
    const { context, run } = this, begin = MARGIN.left, end = MARGIN.left + this.inner;
    const restarts = run.restarts.filter((restart) => restart.status === 0);
    const names = [run.first_generation, ...restarts.map((restart) => restart.generation)];
    const bounds = [0, ...restarts.map((restart) => restart.ended), run.seconds].map((seconds) => this.x(seconds));
    context.strokeStyle = colours.soft;
    context.lineWidth = 1;
    context.beginPath();
    const labels = [];
    names.forEach((name, i) => {
      const left = Math.max(bounds[i], begin) + 1, right = Math.min(bounds[i + 1], end) - 1, number = i + 1;
      if (right <= left) return;
      context.moveTo(left, 20);
      context.lineTo(right, 20);
      const texts = [`generation ${number}`];
      if (name) texts.unshift(`generation ${number}, ${name}`);
      labels.push({ number, texts, short: `${number}`, from: left + 1, to: right - 1 });
    });
    context.stroke();
    this.writeRow("generation", 10, labels);
  }

  // Writes the labels in full where all fit, otherwise numbers, with the word on the left. Of too many, round ones stay.
  writeRow(word, y, labels) {
    const full = labels.map((label) => ({ ...label, x: label.from, y, align: 0 }));
    const roundness = ({ number }) => [10, 5, number].findIndex((step) => number % step === 0);
    const short = full.map((label) => ({ ...label, texts: [label.short], from: MARGIN.left, to: this.width - EDGE }))
      .sort((a, b) => roundness(a) - roundness(b));
    if (this.fitting(full).length >= this.fitting(short).length) this.write(full);
    else this.write([{ texts: [word], x: MARGIN.left - 6, y, align: 1 }, ...short]);
  }

  drawAxes(colours) {
    const { context, height, width } = this;
    context.strokeStyle = colours.line;
    context.lineWidth = 1;
    for (let value = lowest; value <= highest * 1.001; value *= 10) {
      const y = Math.round(this.y(value)) + .5;
      context.beginPath();
      context.moveTo(MARGIN.left, y);
      context.lineTo(width - MARGIN.right, y);
      context.stroke();
      this.write([{ texts: [duration(value)], x: MARGIN.left - 6, y, align: 1 }]);
    }
    const step = niceStep(view[1] - view[0], Math.min(10, this.inner / 64));
    for (let value = Math.ceil(view[0] / step) * step; value <= view[1]; value += step)
      this.write([{ texts: [`${+value.toFixed(3)} s`], x: this.x(value), y: height - MARGIN.bottom + 27, align: .5 }]);
  }

  drawRequests(colours) {
    const { context, run } = this;
    const crowded = run.began.length > 20000;
    const size = crowded ? 2 : 3;
    const [from, to] = view;
    for (let kind = 0; kind < run.kinds.length; kind++) {
      if (!chosen.has(run.kinds[kind].name) || failedOnly) continue;
      context.fillStyle = colours.kinds[run.colours[kind]];
      for (let i = 0; i < run.began.length; i++)
        if (run.kind[i] === kind && !run.failure[i] && run.began[i] >= from && run.began[i] <= to)
          context.fillRect(this.x(run.began[i]) - size / 2, this.y(run.answering[i]) - size / 2, size, size);
    }
    context.strokeStyle = colours.bad;
    context.lineWidth = 2;
    context.beginPath();
    for (let i = 0; i < run.began.length; i++) {
      if (!run.failure[i] || !isShown(run, i) || run.began[i] < from || run.began[i] > to) continue;
      const x = this.x(run.began[i]), y = this.y(run.answering[i]);
      context.moveTo(x - 4, y - 4); context.lineTo(x + 4, y + 4);
      context.moveTo(x - 4, y + 4); context.lineTo(x + 4, y - 4);
    }
    context.stroke();
  }

  drawClosed(colours) {
    const { context, run, height } = this;
    context.strokeStyle = colours.bad;
    context.lineWidth = 1.5;
    context.beginPath();
    run.closed.at.forEach((at, i) => {
      if (!chosen.has(run.kinds[run.closed.kind[i]].name)) return;
      context.moveTo(this.x(at), height - MARGIN.bottom + 3);
      context.lineTo(this.x(at), height - MARGIN.bottom + 14);
    });
    context.stroke();
  }

  drawSelected(colours) {
    const { context, run, selected } = this;
    context.strokeStyle = colours.text;
    context.lineWidth = 2;
    context.beginPath();
    context.arc(this.x(run.began[selected]), this.y(run.answering[selected]), 7, 0, 7);
    context.stroke();
  }

  // Requests in the order in which they began.
  sorted() {
    const { run } = this;
    run.order ??= Uint32Array.from(run.began.keys()).sort((a, b) => run.began[a] - run.began[b]);
    return run.order;
  }

  // The index in that order of the first request that began at `seconds` or later.
  place(seconds) {
    const order = this.sorted();
    let low = 0, high = order.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.run.began[order[middle]] < seconds) low = middle + 1; else high = middle;
    }
    return low;
  }

  nearest(x, y) {
    const { run } = this, order = this.sorted();
    let best = -1, distance = HOVER * HOVER;
    const end = this.seconds(x + HOVER);
    for (let i = this.place(this.seconds(x - HOVER)); i < order.length && run.began[order[i]] <= end; i++) {
      const at = order[i];
      if (!isShown(run, at)) continue;
      const found = (this.x(run.began[at]) - x) ** 2 + (this.y(run.answering[at]) - y) ** 2;
      if (found < distance) [best, distance] = [at, found];
    }
    return best;
  }

  select(i) {
    if (i === this.selected) return;
    this.selected = i;
    $("told").textContent = i < 0 ? "\u00a0" : this.describe(i);
    this.draw();
  }

  describe(i) {
    const { run } = this;
    const own = run.own[i] > 0 ? `, plus ${duration(run.own[i])} of deliberate pauses` : "";
    const fate = run.failure[i] ? `failed: ${run.reasons[run.failure[i]]}` : "response";
    return `${run.kinds[run.kind[i]].name}, ${run.began[i].toFixed(3)} s after the beginning (${PHASES[run.phase[i]]} ` +
      `${run.restarts.length === 1 ? "the restart" : "restarts"}): ${fate} after ${duration(run.answering[i])}${own}`;
  }

  point(event) {
    const box = this.canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }

  press(event) {
    const [x] = this.point(event);
    this.canvas.setPointerCapture(event.pointerId);
    this.drag = { from: x, to: x };
  }

  move(event) {
    const [x, y] = this.point(event);
    if (this.drag) {
      this.drag.to = x;
      this.draw();
    } else this.select(this.nearest(x, y));
  }

  release(event) {
    const drag = this.drag;
    this.drag = null;
    if (drag && Math.abs(drag.to - drag.from) > 5)
      show([this.seconds(Math.min(drag.from, drag.to)), this.seconds(Math.max(drag.from, drag.to))]);
    else this.select(this.nearest(...this.point(event)));
  }

  key(event) {
    const span = view[1] - view[0], middle = (view[0] + view[1]) / 2;
    const zoom = (factor) => show([middle - span * factor / 2, middle + span * factor / 2]);
    const actions = {
      ArrowLeft: () => show([view[0] - span / 4, view[1] - span / 4]),
      ArrowRight: () => show([view[0] + span / 4, view[1] + span / 4]),
      "+": () => zoom(.5), "=": () => zoom(.5), "-": () => zoom(2), "0": () => show(whole),
      n: () => this.step(1), N: () => this.step(1), p: () => this.step(-1), P: () => this.step(-1),
    };
    if (event.ctrlKey || event.metaKey || event.altKey || !actions[event.key]) return;
    event.preventDefault();
    actions[event.key]();
  }

  // Selects the next or previous request of those shown.
  step(direction) {
    const { run } = this, order = this.sorted();
    let at = this.selected >= 0 ? order.indexOf(this.selected) + direction : this.place(view[0]);
    while (at >= 0 && at < order.length && !isShown(run, order[at])) at += direction;
    if (at < 0 || at >= order.length) return;
    const began = run.began[order[at]], span = view[1] - view[0];
    if (began < view[0] || began > view[1]) show([began - span / 2, began + span / 2]);
    this.select(order[at]);
  }
}
