// The Worker: all of wgpt runs here, so that the page never freezes. A message {id, name, args} calls a function; the answers are
// {id, value}, {id, error} and, for each event on the way, {id, event}. {news} tells the page what happened to the files.

import init, * as wgpt from "./wgpt.js";
import * as store from "./store.js";
import { begun, follow, nameOf } from "./runs.js";

const COMPUTES = ["generate", "score", "verify"]; // take an object, tell events, give an object
const PLAIN = ["stop", "put", "blob", "remove", "pack", "unpack"];
const CHANGE = ["put", "remove", "unpack"]; // change the tree of files
const runs = {}; // what is known of each run, as of its last save
const unkept = new Set(); // runs that are not to be kept in the browser
let training = null; // the name of the run that is trained now
let writing = false; // whether its files are being replaced, so that they are no whole state

const functions = {
  begin,
  train,
  persist,
  runs: () => structuredClone(Object.entries(runs).map(([name, run]) => ({ name, path: `/runs/${name}`, kept: store.keeps() && !unkept.has(name), ...run }))),
  devices: async () => JSON.parse(await wgpt.devices()),
  model: async (path) => JSON.parse(await wgpt.model(path)),
  sizes: (options) => JSON.parse(wgpt.sizes(JSON.stringify(options))),
  list: (folder) => JSON.parse(wgpt.list(folder)),
};
for (const name of COMPUTES) functions[name] = async (options, tell) => JSON.parse(await wgpt[name](JSON.stringify(options), (line) => tell(JSON.parse(line))));
for (const name of PLAIN) functions[name] = (...args) => {
  const value = wgpt[name](...args);
  if (name === "remove") forget();
  if (CHANGE.includes(name)) postMessage({ news: { changed: true } });
  return value;
};

onmessage = async ({ data: { id, name, args } }) => {
  const tell = (event) => postMessage({ id, event });
  try {
    if (!functions[name]) throw new Error(`wgpt has no function ${name}.`);
    postMessage({ id, value: await functions[name](...args, tell) });
  } catch (error) {
    postMessage({ id, error: sentence(error) });
  }
};

function sentence(error) {
  if (!(error instanceof WebAssembly.RuntimeError)) return error?.message ?? String(error);
  return `wgpt itself has failed (${error.message}): perhaps it needed more memory than a tab may have.\nReload the page; the runs that were saved are still there.`;
}

// Loads wgpt and what the browser kept; tells what devices there are.
async function begin() {
  await init();
  const adapter = await navigator.gpu?.requestAdapter().catch(() => null);
  const info = adapter?.info;
  wgpt.name_adapter(info ? [info.vendor, info.architecture, info.device || info.description].filter(Boolean).join(" ") : "");
  const kept = await store.open();
  for (const [path, file] of kept.files ?? []) {
    wgpt.put(path, file);
    store.loaded(wgpt.blob(path), file);
  }
  Object.assign(runs, kept.about?.runs);
  forget();
  return { devices: JSON.parse(await wgpt.devices()), hasGpu: "gpu" in navigator, keeps: store.keeps(), reason: kept.reason ?? "" };
}

async function train({ keep = true, ...options }, tell) {
  const name = nameOf(options.run);
  const isNew = JSON.parse(wgpt.list(options.run)).length === 0;
  const run = options.resume && runs[name] ? structuredClone(runs[name]) : begun();
  run.finished = false;
  if (options.resume) keep = !unkept.has(name);
  unkept[keep ? "delete" : "add"](name);
  const hear = (line) => {
    const event = JSON.parse(line);
    follow(run, event);
    tell(event);
    if (event.event === "saving") writing = true;
    if (event.event !== "saved") return;
    writing = false;
    runs[name] = structuredClone(run);
    postMessage({ news: { changed: true } });
    // Now, before the next step, the run's folder is whole: the Blobs that it has now are what is saved.
    if (keep) persist().catch(() => {});
  };
  training = name;
  try {
    const summary = JSON.parse(await wgpt.train(JSON.stringify(options), hear));
    run.finished = summary.finished;
    // What came after the last save of the same step, a sample, is kept too.
    if (run.saved?.step === run.step) runs[name] = structuredClone(run);
    writing = false;
    if (keep) await persist().catch(() => {});
    return summary;
  } finally {
    training = null;
    writing = false;
    // What never was saved whole cannot go on.
    if (isNew && !runs[name]) wgpt.remove(options.run);
    postMessage({ news: { changed: true } });
  }
}

// Saves the tree as it is now. The page hears how it went, and training goes on if it went wrong.
async function persist() {
  if (writing) return; // the tree is saved when the run's files are whole
  const about = { runs: structuredClone(runs) };
  for (const name of unkept) delete about.runs[name];
  try {
    if (await store.save(snapshot(), about)) postMessage({ news: { about: about.runs } });
  } catch (error) {
    postMessage({ news: { failed: error.message } });
    throw error;
  }
}

function snapshot() {
  const paths = ["/runs", "/texts", "/cache"].flatMap((folder) => JSON.parse(wgpt.list(folder))).map(({ path }) => path);
  const isLeft = (name) => unkept.has(name) || (name === training && !runs[name]);
  return paths.filter((path) => !(path.startsWith("/runs/") && isLeft(path.split("/")[2]))).map((path) => [path, wgpt.blob(path)]);
}

// Forgets the runs that have no files.
function forget() {
  const there = new Set(JSON.parse(wgpt.list("/runs")).map(({ path }) => path.split("/")[2]));
  for (const name of Object.keys(runs)) if (!there.has(name)) { delete runs[name]; unkept.delete(name); }
}
