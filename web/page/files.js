// Sorts files that were dropped or opened into texts, models and ZIPs, and puts them where wgpt looks for them. Nothing is copied: a File is read when it is needed.

// The files of a drop, folders and all, as [{path, file}].
export async function dropped(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) return chosen(transfer.files);
  const all = [];
  for (const entry of entries) await walk(entry, all);
  return all;
}

export const chosen = (list) => [...list].map((file) => ({ path: file.webkitRelativePath || file.name, file }));

async function walk(entry, all) {
  if (entry.isFile) return all.push({ path: entry.fullPath.slice(1), file: await new Promise((yes, no) => entry.file(yes, no)) });
  const reader = entry.createReader();
  for (;;) {
    // A reader gives a part of a folder at a time, and none at its end.
    const some = await new Promise((yes, no) => reader.readEntries(yes, no));
    if (!some.length) return;
    for (const inner of some) await walk(inner, all);
  }
}

const folderOf = (path) => path.split("/").slice(0, -1).join("/");
const last = (path) => path.split("/").pop();
const tidy = (name) => name.replace(/[^\p{L}\p{N}._ -]+/gu, "-").replace(/^\.+/, "") || "unnamed";

// Puts the files into wgpt's tree. Answers {texts: [path], models: [path], left: [name]}.
export async function take(engine, files) {
  const taken = { texts: [], models: [], left: [] };
  const folders = files.filter(({ path }) => last(path) === "config.json").map(({ path }) => folderOf(path));
  const names = new Set((await engine.list("/texts")).map(({ path }) => last(path)));
  for (const { path, file } of files) {
    const folder = folders.find((folder) => folder === "" || path.startsWith(`${folder}/`));
    if (folder !== undefined) {
      await engine.put(`/models/${modelName(folder)}/${folder ? path.slice(folder.length + 1) : path}`, file);
    } else if (/\.gguf$/i.test(path)) {
      await engine.put(`/models/${tidy(last(path))}`, file);
      taken.models.push(`/models/${tidy(last(path))}`);
    } else if (/\.zip$/i.test(path)) {
      taken.models.push(...(await unzip(engine, file, last(path))));
    } else if (await isText(file)) {
      taken.texts.push(await putText(engine, last(path), file, names));
    } else if (!last(path).startsWith(".")) taken.left.push(last(path));
  }
  taken.models.push(...folders.map((folder) => `/models/${modelName(folder)}`));
  return taken;
}

const modelName = (folder) => tidy(last(folder) || "opened");

async function unzip(engine, file, name) {
  const place = `/models/${tidy(name.replace(/\.zip$/i, ""))}`;
  await engine.unpack(file, place);
  const inside = (await engine.list(place)).map(({ path }) => path).filter((path) => last(path) === "config.json");
  if (!inside.length) throw new Error(`The ZIP ${name} has no config.json in it, so it is not a model.`);
  // The model is the folder that is least deep: others may be inside it.
  return [folderOf(inside.sort((a, b) => a.length - b.length)[0])];
}

export async function putText(engine, wanted, blob, names) {
  const [, stem, end] = /^(.*?)(\.[^.]*)?$/.exec(tidy(wanted));
  let name = stem + (end ?? "");
  for (let n = 2; names.has(name); n++) name = `${stem}-${n}${end ?? ""}`;
  names.add(name);
  await engine.put(`/texts/${name}`, blob);
  return `/texts/${name}`;
}

// Text is what is UTF-8 without zeros, as far as its beginning shows.
async function isText(file) {
  if (file.size === 0) return false;
  const bytes = new Uint8Array(await file.slice(0, 65536).arrayBuffer());
  if (bytes.includes(0)) return false;
  try { new TextDecoder("utf-8", { fatal: true }).decode(bytes, { stream: true }); } catch { return false; }
  return true;
}
