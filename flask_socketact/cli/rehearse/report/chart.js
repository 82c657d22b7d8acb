const MARGIN = { left: 62, right: 14, top: 40, bottom: 44 };

function palette() {
  const style = getComputedStyle(document.documentElement);
  const get = (name) => style.getPropertyValue(name).trim();
  return { text: get("--text"), soft: get("--soft"), line: get("--line"), band: get("--band"), bad: get("--bad"),
    page: get("--page"), kinds: names.map((_, i) => get(`--k${i % 7}`)) };
}

// A canvas as sharp as the screen, its context in CSS pixels.
function prepare(canvas) {
  const ratio = window.devicePixelRatio || 1;
  const { width, height } = canvas.getBoundingClientRect();
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  context.font = "12px system-ui, sans-serif";
  return { context, width, height };
}

function niceStep(span, marks) {
  const rough = span / marks;
  const power = Math.pow(10, Math.floor(Math.log10(rough)));
  return [1, 2, 5, 10].map((factor) => factor * power).find((step) => step >= rough);
}
