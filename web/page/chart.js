// Draws the loss curve as SVG: the training loss with its mean, the validation loss, and axes with numbers.

const SVG = "http://www.w3.org/2000/svg";
const LEFT = 44, RIGHT = 12, TOP = 12, BOTTOM = 34;

function svg(tag, attributes, text) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

// Round numbers between two values: about `most` of them.
export function ticks(low, high, most) {
  const rough = (high - low) / most || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough);
  const all = [];
  for (let at = Math.ceil(low / step - 1e-9) * step; at <= high + step * 1e-9; at += step) all.push(Number(at.toPrecision(12)));
  return all;
}

// The mean of the points around each point, so that the trend can be seen in the noise of single batches.
function smooth(points) {
  const most = Math.ceil(points.length / 40);
  const sums = [0];
  for (const [, loss] of points) sums.push(sums.at(-1) + loss);
  return points.map(([step], i) => {
    const around = Math.min(most, i, points.length - 1 - i);
    return [step, (sums[i + around + 1] - sums[i - around]) / (2 * around + 1)];
  });
}

export function draw(place, run) {
  const width = Math.max(280, place.clientWidth || 600), height = Math.round(Math.min(320, 160 + width / 8));
  const mean = smooth(run.points);
  const values = [...run.points, ...run.evals].map(([, loss]) => loss);
  if (!values.length) return place.replaceChildren();
  const end = Math.max(run.steps || 1, run.points.at(-1)?.[0] ?? 1);
  const low = Math.min(...values), high = Math.max(...values), room = (high - low) * 0.05 || 0.1;
  const y0 = Math.max(0, low - room), y1 = high + room;
  const x = (step) => LEFT + (step / end) * (width - LEFT - RIGHT);
  const y = (loss) => TOP + ((y1 - loss) / (y1 - y0)) * (height - TOP - BOTTOM);
  const path = (points) => points.map(([step, loss], i) => `${i ? "L" : "M"}${x(step).toFixed(1)} ${y(loss).toFixed(1)}`).join("");

  const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": describe(run) });
  for (const loss of ticks(y0, y1, 5)) {
    picture.append(svg("line", { class: "axis", x1: LEFT, x2: width - RIGHT, y1: y(loss), y2: y(loss) }));
    picture.append(svg("text", { class: "number", x: LEFT - 6, y: y(loss) + 4, "text-anchor": "end" }, String(loss)));
  }
  for (const step of ticks(0, end, width / 110)) {
    const anchor = step === end ? "end" : "middle";
    picture.append(svg("text", { class: "number", x: anchor === "end" ? x(step) + RIGHT : x(step), y: height - BOTTOM + 16, "text-anchor": anchor }, step.toLocaleString("en")));
  }
  picture.append(svg("text", { class: "number", x: LEFT, y: height - 4 }, "steps"));
  picture.append(svg("path", { class: "raw-line", d: path(run.points) }), svg("path", { class: "train-line", d: path(mean) }));
  if (run.evals.length > 1) picture.append(svg("path", { class: "val-line", d: path(run.evals) }));
  for (const [step, loss] of run.evals) picture.append(svg("circle", { class: "val-dot", cx: x(step), cy: y(loss), r: 3 }));
  picture.append(svg("text", { class: "number train-name", x: width - RIGHT, y: TOP + 10, "text-anchor": "end" }, "— training loss"));
  picture.append(svg("text", { class: "number val-name", x: width - RIGHT, y: TOP + 26, "text-anchor": "end" }, "●  validation loss"));
  place.replaceChildren(picture);
}

function describe(run) {
  const last = run.points.at(-1), val = run.evals.at(-1);
  const parts = [`Loss curve, step ${run.step} of ${run.steps}.`];
  if (last) parts.push(`The training loss began at ${run.points[0][1].toFixed(3)} and is ${last[1].toFixed(3)}.`);
  if (val) parts.push(`The validation loss was ${val[1].toFixed(3)} at step ${val[0]}.`);
  return parts.join(" ");
}
