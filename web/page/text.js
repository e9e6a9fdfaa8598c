// Section 1: the texts to train on.

import { $, bytes, make, say } from "./ui.js";
import { chosen, dropped, putText, take } from "./files.js";
import { nameOf } from "./runs.js";

let engine = null;
const ticked = new Set(); // texts that are not ticked must be unticked by hand, so those are remembered
const known = new Set();

export function beginTexts(theEngine, openModel) {
  engine = theEngine;
  $("paste-add").onclick = () => tryTo(addPasted);
  $("open-files").onclick = () => $("files").click();
  $("open-folder").onclick = () => $("folder").click();
  for (const id of ["files", "folder"]) $(id).onchange = () => tryTo(async () => {
    const files = chosen($(id).files);
    await add(files, openModel);
    $(id).value = "";
  });
  beginDrop(openModel);
}

async function tryTo(work) { try { await work(); } catch (error) { say(error.message, true); } }

function beginDrop(openModel) {
  const files = (event) => [...event.dataTransfer.types].includes("Files");
  let depth = 0; // dragenter and dragleave come for every element on the way
  const mark = (change) => { depth = Math.max(0, depth + change); document.body.classList.toggle("dropping", depth > 0); };
  document.addEventListener("dragenter", (event) => { if (files(event)) mark(1); });
  document.addEventListener("dragleave", (event) => { if (files(event)) mark(-1); });
  document.addEventListener("dragover", (event) => { if (files(event)) event.preventDefault(); });
  document.addEventListener("drop", (event) => {
    if (!files(event)) return;
    event.preventDefault();
    mark(-depth);
    // The list of a drop is empty after the event, so it is read before anything is awaited.
    const list = dropped(event.dataTransfer);
    tryTo(async () => add(await list, openModel));
  });
}

async function addPasted() {
  const text = $("paste").value;
  if (!text.trim()) return say("There is nothing to add: paste a text into the field first.", true);
  const names = new Set((await engine.list("/texts")).map(({ path }) => nameOf(path)));
  const path = await putText(engine, "pasted.txt", new Blob([text], { type: "text/plain" }), names);
  $("paste").value = "";
  await added([path]);
  say(`The text was added as ${nameOf(path)}.`);
}

async function add(files, openModel) {
  if (!files.length) return;
  const { texts, models, left } = await take(engine, files);
  await added(texts);
  const parts = [];
  if (texts.length) parts.push(texts.length === 1 ? `${nameOf(texts[0])} was added to the texts.` : `${texts.length} texts were added.`);
  if (left.length) parts.push(`Left out, because it is not text: ${left.slice(0, 5).join(", ")}${left.length > 5 ? ` and ${left.length - 5} more` : ""}.`);
  if (parts.length) say(parts.join(" "), !texts.length);
  for (const path of models) await openModel(path);
}

// Who brings a text wants to train on it rather than on the stories.
async function added(paths) {
  if (!paths.length) return;
  $("stories").checked = false;
  for (const path of paths) { known.add(path); ticked.add(path); }
  await showTexts();
  await engine.persist().catch(() => {});
}

export async function showTexts() {
  const all = await engine.list("/texts");
  if (all.some(({ path }) => !known.has(path)) && known.size === 0 && all.length) $("stories").checked = false;
  for (const { path } of all) if (!known.has(path)) { known.add(path); ticked.add(path); }
  const items = all.map(({ path, size }) => {
    const tick = make("input", { type: "checkbox", checked: ticked.has(path), onchange: () => (tick.checked ? ticked.add(path) : ticked.delete(path)) });
    const remove = make("button", { type: "button", "aria-label": `Remove ${nameOf(path)}`, onclick: () => tryTo(() => removeText(path)) }, "Remove");
    return make("li", {}, make("label", { class: "tick" }, tick, ` ${nameOf(path)} `, make("small", {}, bytes(size))), remove);
  });
  $("texts").replaceChildren($("texts").firstElementChild, ...items);
}

async function removeText(path) {
  await engine.remove(path);
  known.delete(path);
  ticked.delete(path);
  await showTexts();
  await engine.persist().catch(() => {});
}

// What to train on, as wgpt names it, and its size in bytes.
export async function chosenTexts() {
  const texts = (await engine.list("/texts")).filter(({ path }) => ticked.has(path));
  const data = [...($("stories").checked ? ["stories"] : []), ...texts.map(({ path }) => path)];
  if (!data.length) throw new Error("No text is ticked. Tick the stories, or add a text of your own.");
  return { data, size: texts.reduce((sum, { size }) => sum + size, 0) };
}
