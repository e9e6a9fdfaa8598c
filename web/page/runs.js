// What is known of a run, from its events: for the list of runs, the curve, and the browser's files. The page and the worker both use it.

const MOST_POINTS = 2000, MOST_SAMPLES = 20;

export const begun = () => ({ step: 0, steps: null, loss: null, val: null, best: null, parameters: null, points: [], evals: [], samples: [], finished: false, saved: null });

export function follow(run, event) {
  if (event.event === "started") {
    run.parameters = event.parameters;
  } else if (event.event === "step") {
    run.step = event.step;
    run.steps = event.steps;
    if (typeof event.loss === "number") addPoint(run, event.step, event.loss);
  } else if (event.event === "evaluated") {
    run.val = event.val_loss;
    if (event.best) run.best = event.val_loss;
    run.evals = [...run.evals.filter(([step]) => step < event.step), [event.step, event.val_loss]];
  } else if (event.event === "sample") {
    run.samples = [{ step: event.step, text: event.text }, ...run.samples.filter(({ step }) => step < event.step)].slice(0, MOST_SAMPLES);
  } else if (event.event === "saved") {
    run.saved = { step: event.step, time: Date.now() };
  }
}

// A long run keeps the shape of its curve: neighbours become their mean when there are too many.
function addPoint(run, step, loss) {
  run.loss = loss;
  // A run that goes on after a crash computes the steps since its last save again.
  while (run.points.length && run.points.at(-1)[0] >= step) run.points.pop();
  run.points.push([step, loss]);
  if (run.points.length <= MOST_POINTS) return;
  const half = [];
  for (let i = 0; i + 1 < run.points.length; i += 2) half.push([run.points[i + 1][0], (run.points[i][1] + run.points[i + 1][1]) / 2]);
  run.points = half.concat(run.points.length % 2 ? [run.points.at(-1)] : []);
}

export const nameOf = (path) => path.replace(/\/+$/, "").split("/").pop();
