// Sections 2 and 3: the model's size, and the training with its curve, samples and saved runs.

import { $, busy, bytes, clock, count, duration, loss, make, number, refresh, save, say } from "./ui.js";
import { begun, follow, nameOf } from "./runs.js";
import { chosenTexts } from "./text.js";
import { draw } from "./chart.js";

let engine = null, choose = null;
let sizes = [];
let keeps = false;
let run = null; // what is shown of the run
let marks = []; // when the last steps came, for the time that is left
let asked = false; // whether a redraw is under way
let saving = false; // whether the files of the run are being replaced

// `chooseModel` is told of the run that can write now.
export function beginTraining(theEngine, theKeeps, chooseModel) {
  engine = theEngine;
  choose = chooseModel;
  keeps = theKeeps;
  for (const id of ["vocab", "context", "batch", "arch"]) $(id).onchange = () => showSizes().catch((error) => say(error.message, true));
  $("init").onchange = showInit;
  $("train").onclick = () => startNew(true);
  $("room-train").onclick = () => startNew(false);
  $("room-cancel").onclick = () => { $("room").hidden = true; };
  $("pause").onclick = () => { say("The run is being saved; then it pauses."); engine.stop(); };
  new ResizeObserver(redraw).observe($("chart"));
}

export async function showSizes() {
  const chosen = document.querySelector("#sizes :checked")?.value ?? "tiny";
  sizes = await engine.sizes({ arch: $("arch").value, vocab: number("vocab"), context: number("context"), batch: number("batch") });
  $("sizes").replaceChildren(...sizes.map((size) => make("label", {},
    make("input", { type: "radio", name: "size", id: `size-${size.name}`, value: size.name, checked: size.name === chosen }),
    make("b", {}, size.name),
    make("small", {}, `${count(size.parameters)} parameters`),
    make("small", {}, `${size.layers} layers, width ${size.width}, ${size.heads} heads`),
    make("small", {}, `needs ${bytes(size.bytes)} to train`))));
}

function showInit() {
  const from = $("init").value;
  $("sizes").hidden = Boolean(from);
  $("size-note").textContent = from ? `The run begins with the weights of ${nameOf(from)}, and has its size and its tokenizer.` : "";
  for (const id of ["arch", "vocab"]) $(id).disabled = Boolean(from);
}

// Models that a run can begin with.
export function showInits(models) {
  const chosen = $("init").value;
  $("init").replaceChildren($("init").firstElementChild, ...models.map(({ path, label }) => make("option", { value: path }, label)));
  $("init").value = models.some(({ path }) => path === chosen) ? chosen : "";
  showInit();
}

async function settings(texts) {
  const size = document.querySelector("#sizes :checked")?.value ?? "tiny", init = $("init").value;
  const what = init ? nameOf(init) : `${texts.data.length === 1 ? nameOf(texts.data[0]).replace(/\.\w+$/, "") : "texts"}-${size}`;
  const options = { run: `/runs/${await freeName($("run-name").value.trim() || what)}`, data: texts.data, prompt: $("sample-prompt").value, device: $("device").value };
  for (const id of ["context", "batch", "steps", "seed", "save_every", "eval_every", "sample_every"]) options[id] = number(id);
  if ($("lr").value) options.lr = number("lr");
  return Object.assign(options, init ? { init } : { size, arch: $("arch").value, vocab: number("vocab") });
}

async function freeName(wanted) {
  const stem = wanted.replace(/[^\p{L}\p{N}._-]+/gu, "-"), taken = new Set((await engine.list("/runs")).map(({ path }) => path.split("/")[2]));
  let name = stem;
  for (let n = 2; taken.has(name); n++) name = `${stem}-${n}`;
  return name;
}

function startNew(mustFit) {
  $("room").hidden = true;
  return busy("train", async () => {
    const texts = await chosenTexts();
    const options = await settings(texts);
    if (keeps && mustFit && !(await fits(options, texts.size))) return;
    await train({ ...options, keep: keeps && mustFit }, { ...begun(), name: nameOf(options.run) });
  });
}

// Whether the browser has room for the run's saves. If not, the page asks; the button there trains without them.
async function fits(options, textBytes) {
  // Asks that the browser never removes the runs by itself. Some browsers ask the user, and the answer need not be waited for.
  navigator.storage.persist?.().catch(() => {});
  const parameters = sizes.find(({ name }) => name === options.size)?.parameters ?? 0;
  const fromFiles = options.init ? (await engine.list(options.init)).reduce((sum, { size }) => sum + size, 0) / 4 : 0;
  const need = 3 * 12 * (parameters || fromFiles) + textBytes;
  // Some browsers tell everybody the same room, so a save may still find none; that is told then.
  const { quota = Infinity, usage = 0 } = await navigator.storage.estimate().catch(() => ({}));
  if (need <= quota - usage) return true;
  $("room-text").textContent = `The saves of this run need up to ${bytes(need)}, and the browser gives this page ${bytes(Math.max(0, quota - usage))} more. You can remove older runs, or train without keeping the run: then it is lost when the tab is closed, unless you download it.`;
  $("room").hidden = false;
  $("room-train").focus();
  return false;
}

function goOn(known) {
  return busy("train", () => train({ run: known.path, resume: true, device: $("device").value, sample_every: number("sample_every"), prompt: $("sample-prompt").value }, structuredClone(known)));
}

// Shows what is known of a run: its curve, samples and numbers.
function show(known) {
  run = known;
  marks = [];
  $("training").hidden = false;
  for (const id of ["rate", "eta", "run-note", "kept"]) $(id).textContent = "";
  if (known.saved && known.kept) showKept(known);
  showStep();
  showSamples();
  redraw();
}

function showKept({ saved, finished }) {
  const rest = finished ? "" : " If the tab is closed, or the computer sleeps, the run goes on from there.";
  $("kept").textContent = `Saved in this browser at ${clock(saved.time)}, with step ${count(saved.step)}.${rest}`;
  $("kept").classList.remove("bad");
}

async function train(options, begin) {
  const name = nameOf(options.run);
  show(begin);
  if (options.keep === false || !keeps) $("kept").textContent = "This run is not kept in the browser. Download it before you close the tab.";
  $("progress").removeAttribute("value");
  say(`The run ${name} is being prepared.`);
  let end = null;
  try {
    end = await engine.train(options, (event) => { follow(run, event); hear(event); });
  } finally {
    saving = false;
    $("eta").textContent = "";
    showStep();
  }
  await choose(options.run);
  if (!run.saved) return say(`${name} was stopped before its first save.`);
  say(end.finished ? `${name} is trained: ${count(end.steps)} steps in ${duration(end.seconds)}, validation loss ${loss(end.val_loss)}. Let it write in part 4.` : `${name} is paused at step ${count(run.step)}, and saved. It can write now, or go on.`);
}

function hear(event) {
  const kinds = {
    preparing: () => { $("step").textContent = event.total ? `${event.what}: ${bytes(event.done)} of ${bytes(event.total)}` : `${event.what}: ${bytes(event.done)}`; },
    note: () => { $("run-note").textContent = event.text; },
    tuning: () => say(event.text),
    started: () => say(`Training ${count(event.parameters)} parameters on ${event.device}: ${count(event.train_tokens)} tokens of text, and ${count(event.val_tokens)} to test it. It takes ${bytes(event.plan_bytes)} of memory.`),
    step: () => mark(event),
    sample: showSamples,
    saving: () => { saving = true; },
    saved: () => { saving = false; },
  };
  kinds[event.event]?.();
  redraw();
}

function mark(event) {
  marks.push([performance.now(), event.step]);
  if (marks.length > 40) marks.shift();
  showStep();
  if (event.tokens_per_s) $("rate").textContent = `${count(Math.round(event.tokens_per_s))} tokens/s`;
  const [time, step] = marks[0], passed = (performance.now() - time) / 1000;
  if (event.step - step >= 3 && passed > 0.5) $("eta").textContent = event.step < event.steps ? `${duration((passed / (event.step - step)) * (event.steps - event.step))} left` : "";
}

function showStep() {
  $("progress").max = run.steps ?? 1;
  $("progress").value = run.steps ? run.step : 0;
  $("step").textContent = run.steps ? `Step ${count(run.step)} of ${count(run.steps)}, loss ${loss(run.loss)}` : "";
}

function showSamples() {
  $("samples").replaceChildren(...run.samples.map(({ step, text }) => make("li", {}, make("small", {}, `Step ${count(step)}`), text)));
  $("no-samples").hidden = run.samples.length > 0;
}

// Events may come faster than a screen shows them.
function redraw() {
  if (asked || !run) return;
  asked = true;
  requestAnimationFrame(() => { asked = false; if (run) draw($("chart"), run); });
}

// What the worker tells of the files that the browser keeps.
export function hearStore(news) {
  if (news.failed) {
    $("kept").textContent = news.failed;
    $("kept").classList.add("bad");
    say(news.failed, true);
  } else if (run && news.about[run.name]) showKept(news.about[run.name]);
}

export function showRuns(runs) {
  const newest = runs.toSorted((a, b) => (b.saved?.time ?? 0) - (a.saved?.time ?? 0))[0];
  if (newest && !run) show(newest);
  $("runs").replaceChildren(...runs.map((known) => {
    const done = known.finished || (known.steps && known.saved?.step >= known.steps);
    const state = done ? `trained, ${count(known.step)} steps` : `step ${count(known.step)} of ${known.steps ? count(known.steps) : "?"}`;
    const text = `Run ${known.name}, ${state}, loss ${loss(known.loss)}${known.kept ? "" : ", not kept"}`;
    const button = (what, label, onclick, more = { "data-starts": "" }) => make("button", { type: "button", id: `${what}-${known.name}`, "aria-label": `${label} ${known.name}`, onclick, ...more }, label);
    const all = [button("download", "Download", () => download(known.path), {}), button("discard", "Discard", (event) => discard(event.target, known))];
    if (!done) all.unshift(button("go-on", "Go on", () => goOn(known)));
    return make("li", {}, make("span", {}, text), ...all);
  }));
  refresh();
}

export async function download(path) {
  if (saving) return say("The run is being saved at this moment. Try it again in a second.", true);
  try {
    if (path.endsWith(".gguf")) return save(await engine.blob(path), nameOf(path));
    save(await engine.pack(path), `${nameOf(path)}.zip`);
    say(`${nameOf(path)}.zip is being downloaded. Unpacked, it is a folder that "wgpt generate --model" and Hugging Face's transformers read.`);
  } catch (error) { say(error.message, true); }
}

// A run cannot be brought back, so the button asks once more.
async function discard(button, known) {
  if (!button.dataset.sure) {
    button.dataset.sure = "yes";
    button.textContent = "Really discard?";
    return;
  }
  try {
    await engine.remove(known.path);
    if (run?.name === known.name) {
      run = null;
      $("training").hidden = true;
    }
    await engine.persist();
    say(`The run ${known.name} is gone.`);
  } catch (error) { say(error.message, true); }
}
