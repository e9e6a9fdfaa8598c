// Does this browser have what is needed, and if not, which version has it?

const NEEDS = "Chrome or Edge 137, Firefox 153, or Safari 27";
const GPU = "WebGPU is in Chrome and Edge since 113 (on Linux in later versions), in Firefox since 141 on Windows and 145 on macOS, and in Safari since 26.";

// Why nothing can run here, in sentences; an empty list if all is there.
export function lacks() {
  const all = [];
  const wasm = typeof WebAssembly === "object";
  if (!wasm) all.push("This browser does not run WebAssembly, or it is switched off.");
  else if (!("Suspending" in WebAssembly) || !("promising" in WebAssembly)) {
    all.push("This browser cannot let WebAssembly wait for the GPU (the feature is called JSPI).");
  }
  if (typeof Worker === "undefined") all.push("This browser has no Workers.");
  if (all.length) all.push(`Please open this page with ${NEEDS}, or a later version.`);
  return all;
}

// What to say of the device that `devices` found; the worker says whether it has navigator.gpu at all.
export function aboutDevices(found, hasGpu) {
  if (found.adapters.length) return `${found.reason || ""}`;
  const why = hasGpu ? "This browser has WebGPU, but found no GPU for it." : insecure() || `This browser has no WebGPU. ${GPU}`;
  return `${why} wgpt computes on this computer's processor instead, which is slower.`;
}

// WebGPU and the browser's own files are given only to pages that came over https, or from this computer.
function insecure() {
  return window.isSecureContext ? "" : "Browsers give WebGPU only to pages that came over https or from this computer (http://localhost).";
}
