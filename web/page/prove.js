// Section 5: every kernel on this device against its plain version.

import { $, busy, count, make, say } from "./ui.js";

let engine = null;

export function beginProof(theEngine) {
  engine = theEngine;
  $("prove").onclick = () => busy("prove", prove);
  $("prove-stop").onclick = () => engine.stop();
}

async function prove() {
  const body = $("proof").tBodies[0];
  body.replaceChildren();
  $("proof-scroll").hidden = true;
  $("proof-progress").hidden = false;
  $("proof-progress").removeAttribute("value");
  $("proof-note").textContent = "";
  $("proof-note").classList.remove("bad", "good");
  say("Every kernel is being compared.");
  const end = await engine.verify({ device: $("device").value, spoil: $("spoil").checked ? "softmax_forward" : null }, (event) => {
    if (event.total) {
      $("proof-progress").max = event.total;
      $("proof-progress").value = event.done;
    }
    if (event.event === "progress") $("proof-note").textContent = `${event.what}, ${count(event.done)} of ${count(event.total)}`;
    if (event.event !== "row") return;
    $("proof-scroll").hidden = false;
    const failed = event.available && !event.passes;
    body.insertBefore(row(event), failed ? body.firstChild : null);
  }).finally(() => { $("proof-progress").hidden = true; });
  if (end.stopped) {
    $("proof-note").textContent = "";
    return say("The comparison was stopped.");
  }
  const text = `${count(end.compared)} compared, ${count(end.failed)} failed, ${count(end.unavailable)} not available on this device, in ${end.seconds.toFixed(1)} s.`;
  $("proof-note").textContent = text;
  $("proof-note").classList.toggle("bad", end.failed > 0);
  $("proof-note").classList.toggle("good", end.failed === 0);
  say(end.failed ? `Not every kernel is right here: ${text}` : `Every kernel that this device has is right: ${text}`, end.failed > 0);
}

function row(event) {
  const result = !event.available ? "not available" : event.passes ? "passes" : "FAILS";
  const short = (value) => (typeof value === "number" ? value.toExponential(1) : value ?? "");
  const cells = [event.variant, result, short(event.error), short(event.tolerance), event.place ?? ""].map((text) => make("td", {}, String(text)));
  cells[1].className = { passes: "good", FAILS: "bad" }[result] ?? "";
  return make("tr", {}, make("th", { scope: "row" }, event.kernel), ...cells);
}
