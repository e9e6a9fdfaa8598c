// Keeps files in the browser's own file system, so that a tab that is killed at any moment leaves a whole state: the older or the newer one.
//
// wgpt/files/RANDOM has the contents, wgpt/index.json says which path each belongs to. A save writes what changed under new names, then replaces the
// index in one step (close() of a writable swaps it in), then removes the names that no index knows. Only one tab may do that, by a lock.

const LOCK = "wgpt-store";
const names = new WeakMap(); // the stored name of each Blob that was saved or loaded
let folder = null, files = null;
let current = new Set(); // the names that the index on disk knows
// The stored names of what was loaded, by path. wgpt appends to a file by a Blob that refers to the older one, so what was loaded stays on the
// disk until the path is gone or the page is loaded again.
const pinned = new Map();
let next = null, working = null;

// Opens the store. Answers {files: [[path, File]], about}, and {reason}, a sentence, if something is wrong: then perhaps nothing can be kept.
export async function open() {
  if (!navigator.storage?.getDirectory || !navigator.locks) {
    return { reason: "This browser gives the page no place to keep runs (it does so only for pages over https or from this computer), so download your model before you close the tab." };
  }
  if (!(await own())) return { reason: "Another tab with this page keeps the runs. This tab can train too, but it keeps nothing; close the other tab and reload this one to change that." };
  try {
    folder = await (await navigator.storage.getDirectory()).getDirectoryHandle("wgpt", { create: true });
    files = await folder.getDirectoryHandle("files", { create: true });
    return await load();
  } catch (error) {
    folder = null;
    return { reason: `This browser refused to open its file system for the page (${error.message}), so runs are not kept. In a private window that is usual.` };
  }
}

// The lock is held until the worker ends. The worker of a page that was just reloaded may need a moment to end, so this tries for a second.
async function own() {
  for (let tries = 0; tries < 10; tries++) {
    const got = await new Promise((answer) => {
      navigator.locks.request(LOCK, { ifAvailable: true }, (lock) => {
        answer(lock !== null);
        return lock ? new Promise(() => {}) : undefined;
      });
    });
    if (got) return true;
    await new Promise((wake) => setTimeout(wake, 100));
  }
  return false;
}

async function load() {
  const index = await readIndex();
  const found = [], damaged = [];
  for (const [path, { name, size }] of Object.entries(index.files)) {
    const file = await files.getFileHandle(name).then((handle) => handle.getFile()).catch(() => null);
    if (file?.size === size) {
      found.push([path, file]);
      pinned.set(path, name);
    } else damaged.push(path);
  }
  current = new Set(Object.values(index.files).map(({ name }) => name));
  await clean();
  const reason = damaged.length ? `The browser lost a part of what was kept here: ${damaged.join(", ")}.` : "";
  return { files: found, about: index.about, reason };
}

async function readIndex() {
  try {
    return JSON.parse(await (await (await folder.getFileHandle("index.json")).getFile()).text());
  } catch (error) {
    if (error.name === "NotFoundError") return { files: {}, about: {} };
    throw error;
  }
}

// To be called for what was loaded: the Blob by which the tree of files knows the path.
export function loaded(blob, file) { names.set(blob, file.name); }

export const keeps = () => folder !== null;

// Saves a state of the tree: [[path, Blob]], and what is to be known about it. If a save is under way, this one follows it; one that waits is replaced.
// Resolves when nothing is left to do; rejects with a sentence, and the older state stays.
export function save(tree, about) {
  if (!folder) return Promise.resolve(false);
  next = { tree, about };
  working ??= saveAll().finally(() => { working = null; });
  return working;
}

async function saveAll() {
  while (next) {
    const { tree, about } = next;
    next = null;
    await saveOne(tree, about);
  }
  return true;
}

async function saveOne(tree, about) {
  const index = { files: {}, about }, fresh = [];
  try {
    for (const [path, blob] of tree) {
      let name = names.get(blob);
      if (!current.has(name)) { // it is new, or was removed in the meantime
        name = crypto.randomUUID();
        await write(files, name, blob);
        fresh.push([blob, name]);
      }
      index.files[path] = { name, size: blob.size };
    }
    await write(folder, "index.json", JSON.stringify(index));
  } catch (error) {
    await clean().catch(() => {});
    const why = error.name === "QuotaExceededError" ? "the browser gives this page no more room" : error.message;
    throw new Error(`The run could not be saved in this browser: ${why}.\nThe save before it remains. You can pause and download the model.`);
  }
  for (const [blob, name] of fresh) names.set(blob, name);
  for (const path of pinned.keys()) if (!(path in index.files)) pinned.delete(path);
  current = new Set(Object.values(index.files).map(({ name }) => name));
  await clean();
}

async function write(place, name, contents) {
  const writable = await (await place.getFileHandle(name, { create: true })).createWritable();
  try {
    await writable.write(contents);
    await writable.close();
  } catch (error) {
    await writable.abort().catch(() => {});
    throw error;
  }
}

// Removes what no index knows: old contents, and those of a save that was killed. What cannot be removed now is tried again next time.
async function clean() {
  const needed = new Set([...current, ...pinned.values()]);
  for await (const name of files.keys()) {
    if (!needed.has(name)) await files.removeEntry(name).catch(() => {});
  }
  for await (const name of folder.keys()) {
    if (name !== "files" && name !== "index.json") await folder.removeEntry(name).catch(() => {});
  }
}
