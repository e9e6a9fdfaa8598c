// The page: finds out whether this browser can run it, starts the worker, and brings the sections together.

import { $, becomeReady, make, say } from "./ui.js";
import { aboutDevices, lacks } from "./check.js";
import { start } from "./engine.js";
import { beginTexts, showTexts } from "./text.js";
import { beginTraining, hearStore, showRuns, showSizes } from "./train.js";
import { beginWriting, chooseModel, openModel, showModels } from "./write.js";
import { beginProof } from "./prove.js";

let engine = null;

function showLacks(sentences) {
  $("lacks").replaceChildren(...sentences.map((text) => make("p", {}, text)));
  $("lacks").hidden = false;
}

function showDevices({ devices, hasGpu }) {
  const gpu = devices.adapters[0];
  const options = [["auto", `the best (${devices.auto === "gpu" && gpu ? gpu.name : "the processor"})`]];
  if (gpu) options.push(["gpu", `GPU: ${gpu.name}`]);
  options.push(["cpu", "this computer's processor; slower"]);
  $("device").replaceChildren(...options.map(([value, text]) => make("option", { value }, text)));
  if (!gpu) $("device").value = "cpu";
  $("device-note").textContent = aboutDevices(devices, hasGpu);
  $("device-row").hidden = false;
}

// Shows anew what depends on the files. The worker tells of changes one by one, so several are taken together.
let soon = null;
function changed() {
  if ($("main").hidden) return;
  soon ??= setTimeout(() => { soon = null; showFiles().catch((error) => say(error.message, true)); }, 50);
}

async function showFiles() {
  const runs = await engine.runs();
  await showTexts();
  showRuns(runs);
  await showModels(runs);
  return runs;
}

function hear(news) {
  if (news.changed) changed();
  else hearStore(news);
}

async function begin() {
  const sentences = lacks();
  if (sentences.length) {
    showLacks(sentences);
    window.wgpt = { ready: Promise.reject(new Error(sentences.join(" "))) };
    window.wgpt.ready.catch(() => {});
    return say("Nothing can be computed in this browser.", true);
  }
  window.wgpt = engine = start(hear);
  engine.ready.catch(() => {});
  const found = await engine.ready;
  showDevices(found);
  beginTexts(engine, openModel);
  beginTraining(engine, found.keeps, chooseModel);
  beginWriting(engine);
  beginProof(engine);
  await showSizes();
  const runs = await showFiles();
  becomeReady();
  $("main").hidden = false;
  if (found.reason) showLacks([found.reason]);
  say(runs.length ? "Ready. The runs that were kept in this browser are in part 3." : `Ready. Press "Train" to train a small model on the stories.`);
}

begin().catch((error) => say(error.message, true));

// Offline use is a gain that may fail without harm, for example in a private window.
if (window.isSecureContext && navigator.serviceWorker) navigator.serviceWorker.register("offline.js").catch(() => {});
