// The service worker: the page works offline once it was loaded. The network comes first, so that a new build is seen at once; without one, the cache.
// A build replaces the version, which makes the browser fetch all files anew, so a cache never mixes two builds.

const CACHE = "wgpt-page-__WGPT_VERSION__";
const FILES = ["./", "index.html", "style.css", "icon.svg", "page.js", "ui.js", "check.js", "engine.js", "worker.js", "store.js", "runs.js", "files.js",
  "text.js", "train.js", "write.js", "prove.js", "chart.js", "tokens.js", "wgpt.js", "wgpt_bg.wasm"];
const OURS = new Set(FILES.map((file) => new URL(file, self.registration.scope).href));

self.addEventListener("install", (event) => {
  const requests = FILES.map((file) => new Request(file, { cache: "no-cache" }));
  event.waitUntil(caches.open(CACHE).then((cache) => cache.addAll(requests)).then(() => self.skipWaiting()));
});

self.addEventListener("activate", (event) => {
  event.waitUntil((async () => {
    for (const name of await caches.keys()) if (name.startsWith("wgpt-page-") && name !== CACHE) await caches.delete(name);
    await self.clients.claim();
  })());
});

self.addEventListener("fetch", (event) => {
  const url = new URL(event.request.url);
  url.search = url.hash = "";
  if (event.request.method !== "GET" || !OURS.has(url.href)) return;
  event.respondWith(fetch(event.request, { cache: "no-cache" }).catch(async () => (await caches.match(url.href)) ?? Response.error()));
});
