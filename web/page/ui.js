// What all sections use: elements, the status line, words for numbers, and the rule that one computation runs at a time.

export const $ = (id) => document.getElementById(id);

export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name in element && typeof value !== "string") element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

export function say(text, bad = false) {
  $("status").textContent = text;
  $("status").classList.toggle("bad", bad);
}

export const count = (n) => n.toLocaleString("en");

export function bytes(n) {
  const units = ["bytes", "kB", "MB", "GB"];
  let unit = 0;
  for (; n >= 1000 && unit < 3; unit++) n /= 1000;
  return `${unit && n < 10 ? n.toFixed(1) : Math.round(n)} ${units[unit]}`;
}

const several = (n, what) => `about ${n} ${what}${n === 1 ? "" : "s"}`;

export function duration(seconds) {
  if (seconds < 55) return several(Math.max(5, Math.ceil(seconds / 5) * 5), "second");
  if (seconds < 5400) return several(Math.round(seconds / 60), "minute");
  return several(Math.round(seconds / 3600), "hour");
}

export const clock = (time) => new Date(time).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
export const loss = (number) => (typeof number === "number" ? number.toFixed(3) : "unknown");

let running = null;
let ready = false;

export const isBusy = () => running !== null;
export function becomeReady() { ready = true; refresh(); }

// The number in a field; an error that names the field if there is none, or one that is out of range.
export function number(id) {
  const { value, validity, min, max, labels } = $(id);
  if (value !== "" && !validity.badInput && !validity.rangeUnderflow && !validity.rangeOverflow) return Number(value);
  const range = [min && `at least ${min}`, max && `at most ${max}`].filter(Boolean).join(" and ");
  $(id).focus();
  throw new Error(`The field "${labels[0].firstChild.textContent}" needs a number${range ? ` of ${range}` : ""}.`);
}

// Buttons say in their attributes what they do: data-starts begins a computation, data-stops ends the named one, data-needs=model needs a chosen model.
export function refresh() {
  for (const button of document.querySelectorAll("[data-starts], [data-needs]")) {
    const lacks = button.dataset.needs === "model" && !$("model").value;
    button.disabled = !ready || lacks || ("starts" in button.dataset && running !== null);
  }
  for (const button of document.querySelectorAll("[data-stops]")) button.disabled = running !== button.dataset.stops;
}

// One computation at a time; what goes wrong is said in the status line.
export async function busy(name, work) {
  if (running) return say("Something is being computed already. Wait for its end, or stop it.", true);
  running = name;
  document.body.dataset.busy = name;
  refresh();
  try { await work(); } catch (error) { say(error.message, true); }
  running = null;
  delete document.body.dataset.busy;
  refresh();
}

export function save(blob, name) {
  const link = make("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  // The browser reads the blob after the click; a minute is enough for it to open it.
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}
