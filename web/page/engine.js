// The Worker as an object with async functions. Tests use it as window.wgpt.

const NAMES = ["devices", "sizes", "train", "generate", "score", "verify", "model", "stop", "put", "list", "blob", "remove", "pack", "unpack", "persist", "runs"];

// `news` is called with what the worker tells by itself, about the files.
export function start(news) {
  const worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
  const waiting = new Map();
  let last = 0;

  const call = (name, ...all) => new Promise((resolve, reject) => {
    const tell = typeof all.at(-1) === "function" ? all.pop() : () => {};
    waiting.set(++last, { resolve, reject, tell });
    worker.postMessage({ id: last, name, args: all });
  });

  worker.onmessage = ({ data }) => {
    if (data.news) return news(data.news);
    const { resolve, reject, tell } = waiting.get(data.id);
    if ("event" in data) return tell(data.event);
    waiting.delete(data.id);
    if ("error" in data) reject(new Error(data.error));
    else resolve(data.value);
  };
  worker.onerror = (event) => {
    event.preventDefault();
    const error = new Error(`The part of the page that computes has failed${event.message ? `: ${event.message}` : " to load"}.\nReload the page; saved runs are still there.`);
    for (const { reject } of waiting.values()) reject(error);
    waiting.clear();
  };

  const engine = { ready: call("begin") };
  for (const name of NAMES) engine[name] = (...all) => call(name, ...all);
  return engine;
}
