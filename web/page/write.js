// Section 4: a model writes, or reads a text, and shows what it expected.

import { $, busy, count, isBusy, make, number, refresh, say } from "./ui.js";
import { nameOf } from "./runs.js";
import { tokenView } from "./tokens.js";
import { download, showInits } from "./train.js";

let engine = null, view = null, device = null;

export function beginWriting(theEngine) {
  engine = theEngine;
  view = tokenView($("written"), (before, other) => { $("prompt").value = before + other.text; write(); });
  $("write").onclick = () => write();
  $("again").onclick = () => { $("write-seed").value = ""; write(); };
  $("read").onclick = read;
  $("stop").onclick = () => engine.stop();
  $("download").onclick = () => download($("model").value);
  $("close-model").onclick = closeModel;
  $("model").onchange = () => describe().catch((error) => say(error.message, true));
  $("prompt").onkeydown = (event) => { if (event.key === "Enter" && event.ctrlKey) $("write").click(); };
}

// The models that can write: saved runs, and what was opened.
export async function showModels(runs) {
  const chosen = $("model").value, opened = await openedModels();
  const models = [...runs.map(({ path, name }) => ({ path, label: `run ${name}` })), ...opened.map((path) => ({ path, label: nameOf(path) }))];
  $("model").replaceChildren(...models.map(({ path, label }) => make("option", { value: path }, label)));
  if (models.some(({ path }) => path === chosen)) $("model").value = chosen;
  $("no-model").hidden = models.length > 0;
  showInits(models);
  if ($("model").value !== chosen) forgetDescription();
  refresh();
}

async function openedModels() {
  const paths = (await engine.list("/models")).map(({ path }) => path);
  const folders = paths.filter((path) => path.endsWith("/config.json")).map((path) => path.slice(0, -"/config.json".length));
  const outer = folders.filter((folder) => !folders.some((other) => folder.startsWith(`${other}/`)));
  return [...outer, ...paths.filter((path) => path.endsWith(".gguf"))];
}

export async function chooseModel(path) {
  await showModels(await engine.runs());
  $("model").value = path;
  forgetDescription();
  refresh();
}

// Chooses a model that was just opened, and tells what it is.
export async function openModel(path) {
  await chooseModel(path);
  await describe();
  say(`${nameOf(path)} is open. Let it write in part 4, or choose it in part 2 under "Start from".`);
}

function forgetDescription() {
  $("model-note").textContent = "";
  $("close-model").hidden = !$("model").value.startsWith("/models/");
}

// Tells what the chosen model is, if nothing else is being computed.
async function describe() {
  const path = $("model").value;
  forgetDescription();
  refresh();
  if (!path.startsWith("/models/") || isBusy()) return;
  await busy("model", async () => {
    const model = await engine.model(path);
    $("model-note").textContent = `${model.family}, ${count(model.parameters)} parameters, context of ${count(model.context)} tokens, vocabulary of ${count(model.vocab)}${model.chat ? ", made for conversations" : ""}.`;
  });
}

async function closeModel() {
  try { await engine.remove($("model").value); } catch (error) { say(error.message, true); }
}

function settings() {
  const all = { model: $("model").value, prompt: $("prompt").value, device: $("device").value, alternatives: 5 };
  for (const id of ["max_tokens", "temperature", "top_p", "top_k", "min_p", "repetition_penalty"]) all[id] = number(id);
  // Without a seed one is drawn, so that each click writes another text.
  all.seed = $("write-seed").value === "" ? crypto.getRandomValues(new Uint32Array(1))[0] : number("write-seed");
  return all;
}

const write = () => busy("write", async () => {
  const options = settings();
  start();
  const end = await engine.generate(options, view.add);
  $("written-note").textContent = `${count(end.tokens)} tokens in ${end.seconds.toFixed(1)} s (${(end.tokens / Math.max(end.seconds, 1e-3)).toFixed(0)} tokens/s), seed ${options.seed}.`;
  say("The text is written.");
});

const read = () => busy("write", async () => {
  start();
  await engine.score({ model: $("model").value, text: $("prompt").value, device: $("device").value, alternatives: 5 }, view.add);
  const scored = view.all().filter(({ logprob }) => typeof logprob === "number");
  const nats = scored.reduce((sum, { logprob }) => sum - logprob, 0);
  $("written-note").textContent = scored.length ? `${count(view.all().length)} tokens, perplexity ${Math.exp(nats / scored.length).toPrecision(4)}.` : "";
  say("The text is read.");
});

function start() {
  view.clear();
  $("written-note").textContent = "";
  say(`${nameOf($("model").value)} is being read.`);
}
