// A text as tokens, each coloured by how much it surprised the model, with a card of what else was likely.

import { $, make } from "./ui.js";

const percent = (logprob) => `${(100 * Math.exp(logprob)).toPrecision(3)} %`;
// A token as one can tell it from others: blanks and line ends are seen.
const shown = (text) => JSON.stringify(text).slice(1, -1).replaceAll(" ", "\u2423");
const heat = (logprob) => (typeof logprob === "number" ? Math.min(6, Math.floor(-logprob / 1.2)) : 0);

// `fork(textBefore, token)` is called when another token is chosen.
export function tokenView(place, fork) {
  let all = [], decoder = new TextDecoder();

  function clear() {
    hide();
    all = [];
    decoder = new TextDecoder();
    place.replaceChildren();
  }

  function add(token) {
    // A character may be spread over several tokens: it is shown with the last of them.
    const text = token.bytes.length ? decoder.decode(new Uint8Array(token.bytes), { stream: true }) : token.text;
    const title = typeof token.logprob === "number" ? `${percent(token.logprob)}, ${(-token.logprob / Math.LN2).toFixed(1)} bits` : "the first token has no probability";
    const span = make("span", { class: `token h${heat(token.logprob)}${token.prompt ? " given" : ""}`, tabindex: all.length ? "-1" : "0", role: "button", "aria-label": `${shown(token.text)}: ${title}` });
    span.textContent = text;
    span.dataset.i = all.length;
    all.push({ ...token, shown: text, title });
    place.append(span);
  }

  const before = (i) => all.slice(0, i).map((token) => token.shown).join("");

  function card(span) {
    const i = Number(span.dataset.i), token = all[i];
    const buttons = (token.top || []).map((other) => {
      const button = make("button", { type: "button" }, make("span", {}, shown(other.text)), make("span", {}, percent(other.logprob)));
      if (other.id === token.id) button.setAttribute("aria-current", "true");
      // A part of a character cannot be given as text.
      button.disabled = other.text.includes("\ufffd") || other.id === token.id;
      button.onclick = () => { hide(); fork(before(i), other); };
      return button;
    });
    $("card").replaceChildren(make("div", {}, `${shown(token.text)}: ${token.title}`), ...buttons);
    $("card").hidden = false;
    const box = span.getClientRects()[0] || span.getBoundingClientRect();
    $("card").style.top = `${box.bottom + window.scrollY + 2}px`;
    $("card").style.left = `${Math.max(8, Math.min(box.left, window.innerWidth - $("card").offsetWidth - 16))}px`;
    $("card").from = span;
  }

  function go(span) {
    if (!span) return;
    for (const old of place.querySelectorAll("[tabindex='0']")) old.tabIndex = -1;
    span.tabIndex = 0;
    span.focus();
  }

  const tokenOf = (event) => event.target.closest?.(".token");
  for (const kind of ["mouseover", "focusin", "click"]) place.addEventListener(kind, (event) => { const span = tokenOf(event); if (span) card(span); });
  place.addEventListener("keydown", (event) => {
    const span = tokenOf(event);
    if (!span) return;
    if (event.key === "ArrowRight") go(span.nextElementSibling);
    else if (event.key === "ArrowLeft") go(span.previousElementSibling);
    else if (event.key === "Enter") $("card").querySelector("button:not(:disabled)")?.focus();
    else return;
    event.preventDefault();
  });
  return { clear, add, all: () => all };
}

function hide() { $("card").hidden = true; }

document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || $("card").hidden) return;
  if ($("card").contains(document.activeElement)) $("card").from?.focus();
  hide();
});
document.addEventListener("pointerdown", (event) => { if (!event.target.closest("#card, .token")) hide(); });
