"use strict";
// The path explorer of the page. Rules and surfaces are those of instep, written once more;
// tests compare the paths with instep's. `EXPLORER` holds surfaces, defaults and colours.

const VALUES = {
  quadratic: (x, y) => (x * x) / 30 + y * y,
  sech: (x, y) => -(halfSech(x) + halfSech(y)),
};
const GRADIENTS = {
  quadratic: (x, y) => [x / 15, 2 * y],
  sech: (x, y) => [halfSech(x) * Math.tanh(x), halfSech(y) * Math.tanh(y)],
};

function halfSech(x) {
  const q = Math.exp(-Math.abs(x));
  return q / (1 + q * q);
}

function adam(h, state, w, g, t) {
  return w.map((value, k) => {
    const m = (state.m[k] += (1 - h.beta1) * (g[k] - state.m[k]));
    const v = (state.v[k] = h.beta2 * state.v[k] + (1 - h.beta2) * g[k] * g[k]);
    const rate = h.lr / (1 - h.beta1 ** t);
    return value - (rate * m) / (Math.sqrt(v / (1 - h.beta2 ** t)) + h.eps);
  });
}

// Each takes hyperparameters, state (arrays m and v), parameters, gradient, and the step from 1.
const RULES = {
  SGD: (h, state, w, g) => w.map((value, k) => value - h.lr * g[k]),
  Momentum: (h, state, w, g) =>
    w.map((value, k) => value + (state.m[k] = h.momentum * state.m[k] - h.lr * g[k])),
  Nesterov: (h, state, w, g) =>
    w.map((value, k) => {
      const step = h.lr * g[k];
      state.m[k] = h.momentum * state.m[k] - step;
      return value + (h.momentum * state.m[k] - step);
    }),
  AdaGrad: (h, state, w, g) =>
    w.map((value, k) => {
      state.v[k] += g[k] * g[k];
      return value - (h.lr * g[k]) / (Math.sqrt(state.v[k]) + h.eps);
    }),
  RMSProp: (h, state, w, g) =>
    w.map((value, k) => {
      state.v[k] = h.decay * state.v[k] + (1 - h.decay) * g[k] * g[k];
      return value - (h.lr * g[k]) / (Math.sqrt(state.v[k]) + h.eps);
    }),
  Adam: adam,
  AdamW: (h, state, w, g, t) =>
    adam(h, state, w.map((value) => (1 - h.lr * h.weight_decay) * value), g, t),
};

// Which hyperparameter the slider of momentum sets; the other rules have none.
const MOMENTUM = { Momentum: "momentum", Nesterov: "momentum", Adam: "beta1", AdamW: "beta1" };

function instepPath(surface, optimizer, settings, start, steps) {
  const h = { ...EXPLORER.optimizers[optimizer], ...settings };
  const state = { m: [0, 0], v: [0, 0] };
  const points = [start];
  for (let t = 1, w = start; t <= steps; t++) {
    w = RULES[optimizer](h, state, w, GRADIENTS[surface](...w), t);
    points.push(w);
  }
  return points;
}

const $ = (id) => document.getElementById(id);

function settings() {
  const name = $("optimizer").value;
  const found = { lr: Number($("lr").value) };
  if (name in MOMENTUM) found[MOMENTUM[name]] = Number($("momentum").value);
  return found;
}

function start() {
  return [Number($("x").value), Number($("y").value)];
}

// The ground of the map is drawn once for each surface, size and theme.
const grounds = new Map();

function ground(surface, width, height, dark) {
  const key = [surface, width, height, dark].join();
  if (!grounds.has(key)) {
    const { x, y, levels } = EXPLORER.surfaces[surface];
    const image = new ImageData(width, height);
    const value = (i, j) =>
      VALUES[surface](x[0] + ((x[1] - x[0]) * i) / width, y[1] - ((y[1] - y[0]) * j) / height);
    const band = (f) => levels.filter((level) => f > level).length;
    let [low, high] = [Infinity, -Infinity];
    for (let j = 0; j <= height; j += 4)
      for (let i = 0; i <= width; i += 4) {
        low = Math.min(low, value(i, j));
        high = Math.max(high, value(i, j));
      }
    const colours = EXPLORER.shade[dark ? "dark" : "light"];
    const line = EXPLORER.contour[dark ? "dark" : "light"];
    for (let j = 0; j < height; j++)
      for (let i = 0; i < width; i++) {
        const f = value(i, j);
        const at = Math.min(Math.max((f - low) / (high - low), 0), 0.999) * (colours.length - 1);
        const [from, to] = [colours[Math.floor(at)], colours[Math.floor(at) + 1]];
        const here = band(f);
        const edge = here !== band(value(i + 1, j)) || here !== band(value(i, j + 1));
        for (let c = 0; c < 3; c++)
          image.data[4 * (j * width + i) + c] = edge
            ? line[c]
            : from[c] + (to[c] - from[c]) * (at % 1);
        image.data[4 * (j * width + i) + 3] = 255;
      }
    grounds.clear();
    grounds.set(key, image);
  }
  return grounds.get(key);
}

function marked(pen, [i, j], draw, line, fill) {
  pen.beginPath();
  draw(i, j);
  pen.setLineDash([]);
  if (fill) {
    pen.fillStyle = fill;
    pen.fill();
  }
  pen.strokeStyle = line;
  pen.stroke();
}

function star(pen, i, j, size) {
  for (let k = 0; k < 10; k++) {
    const [angle, radius] = [(Math.PI * k) / 5, k % 2 ? size / 2.4 : size];
    pen.lineTo(i + radius * Math.sin(angle), j - radius * Math.cos(angle));
  }
  pen.closePath();
}

function draw() {
  const surface = $("surface").value;
  const optimizer = $("optimizer").value;
  const steps = Number($("steps").value);
  $("momentum").disabled = !(optimizer in MOMENTUM);
  $("lr-value").value = Number($("lr").value).toPrecision(3);
  $("momentum-value").value = optimizer in MOMENTUM ? $("momentum").value : "none";
  $("steps-value").value = steps;
  const points = instepPath(surface, optimizer, settings(), start(), steps);

  const canvas = $("map");
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const style = getComputedStyle(document.documentElement);
  const ratio = window.devicePixelRatio || 1;
  const width = (canvas.width = Math.round(canvas.clientWidth * ratio));
  const height = (canvas.height = Math.round(canvas.clientHeight * ratio));
  const { x, y } = EXPLORER.surfaces[surface];
  const place = ([a, b]) => [
    ((a - x[0]) / (x[1] - x[0])) * width,
    ((y[1] - b) / (y[1] - y[0])) * height,
  ];
  const pen = canvas.getContext("2d");
  pen.putImageData(ground(surface, width, height, dark), 0, 0);
  const ink = style.getPropertyValue("--ink");
  const colour = style.getPropertyValue(`--${optimizer}`);
  pen.lineWidth = 1.6 * ratio;
  pen.strokeStyle = pen.fillStyle = colour;
  const seen = points.filter((point) => point.every((value) => Math.abs(value) < 1e6)).map(place);
  pen.beginPath();
  seen.forEach((at) => pen.lineTo(...at));
  pen.stroke();
  for (const [i, j] of seen) {
    pen.beginPath();
    pen.arc(i, j, 2.6 * ratio, 0, 7);
    pen.fill();
  }
  const begin = place(points[0]);
  const size = 5 * ratio;
  marked(pen, begin, (i, j) => pen.rect(i - size, j - size, 2 * size, 2 * size), ink,
    style.getPropertyValue("--ground"));
  if (seen.length === points.length)
    marked(pen, seen.at(-1), (i, j) => pen.arc(i, j, 1.8 * size, 0, 7), ink);
  marked(pen, place([0, 0]), (i, j) => star(pen, i, j, 1.5 * size), "#333", "#f0c808");

  const [a, b] = points.at(-1);
  const above = VALUES[surface](a, b) - EXPLORER.surfaces[surface].minimum;
  $("told").value = Number.isFinite(above)
    ? `After ${steps} steps at (${a.toPrecision(4)}, ${b.toPrecision(4)}), ` +
      `${above.toPrecision(3)} above the minimum.`
    : `After ${steps} steps it has run away.`;
}

function moveTo(a, b) {
  const { x, y } = EXPLORER.surfaces[$("surface").value];
  $("x").value = Math.min(Math.max(a, x[0]), x[1]).toFixed(2);
  $("y").value = Math.min(Math.max(b, y[0]), y[1]).toFixed(2);
  draw();
}

function pointed(event) {
  if (event.type === "pointermove" && !event.buttons) return;
  const { x, y } = EXPLORER.surfaces[$("surface").value];
  const box = $("map").getBoundingClientRect();
  moveTo(
    x[0] + ((event.clientX - box.left) / box.width) * (x[1] - x[0]),
    y[1] - ((event.clientY - box.top) / box.height) * (y[1] - y[0])
  );
}

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };

function typed(event) {
  if (!(event.key in ARROWS)) return;
  event.preventDefault();
  const [dx, dy] = ARROWS[event.key].map((side) => side * (event.shiftKey ? 1 : 0.1));
  moveTo(start()[0] + dx, start()[1] + dy);
}

function reset() {
  const { start: from } = EXPLORER.surfaces[$("surface").value];
  $("lr").value = 1;
  $("momentum").value = 0.9;
  $("steps").value = 20;
  moveTo(...from);
}

if ($("explorer")) {
  for (const id of ["optimizer", "lr", "momentum", "steps", "x", "y"])
    $(id).addEventListener("input", draw);
  $("surface").addEventListener("input", reset);
  $("reset").addEventListener("click", reset);
  $("map").addEventListener("pointerdown", pointed);
  $("map").addEventListener("pointermove", pointed);
  $("map").addEventListener("keydown", typed);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  new ResizeObserver(draw).observe($("map"));
  reset();
}
