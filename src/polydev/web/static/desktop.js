// A login's remote desktop in the page: the screen, the clipboard both ways, pasting, full size.
// The connection is made again by itself while the login goes on.

import RFB from "./novnc/core/rfb.js";
import { initLogging } from "./novnc/core/util/logging.js";

initLogging("none"); // that a desktop is not there yet, or not any more, is said in the page

const AGAIN_MS = 500;
const part = document.getElementById("desktop");
const canvas = document.getElementById("screen");
const status = document.getElementById("screen-status");
const paste = document.getElementById("remote-paste");
let screen = null;
let over = false;

function address() {
  const url = new URL(part.dataset.screen, location.href);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  return url.href;
}

function say(words) {
  if (status.textContent !== words) status.textContent = words;
}

function connect() {
  if (screen || over || !isReady()) return;
  say("Connecting to the desktop …");
  screen = new RFB(canvas, address(), { shared: true });
  screen.scaleViewport = true;
  screen.resizeSession = false;
  screen.focusOnClick = true;
  screen.qualityLevel = 7;
  screen.compressionLevel = 1;
  screen.addEventListener("connect", () => {
    say("The desktop is yours. What you type goes into it while it has the focus.");
    part.dataset.connected = "yes";
    screen.focus();
  });
  screen.addEventListener("disconnect", () => {
    screen = null;
    delete part.dataset.connected;
    if (!over) {
      say("The desktop is not there at the moment.");
      setTimeout(connect, AGAIN_MS);
    }
  });
  screen.addEventListener("clipboard", (event) => {
    const copied = document.getElementById("remote-copied");
    copied.textContent = event.detail.text;
    copied.closest("p").hidden = !event.detail.text;
  });
}

// How the login stands is in the part of the page that is kept true.
function isReady() {
  const state = document.querySelector("[data-login-state]")?.dataset.loginState;
  over = ["connected", "failed", "expired", "cancelled", "credential_seen", "proved"].includes(state);
  part.hidden = over;
  if (over) screen?.disconnect();
  return ["ready", "waiting_for_user"].includes(state);
}

document.addEventListener("htmx:afterSwap", connect);
connect();

document.getElementById("remote-form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (!screen || !paste.value) return;
  screen.clipboardPasteFrom(paste.value);
  // As the keyboard would: the terminal takes Ctrl+Shift+V, everything else Ctrl+V.
  const shift = document.getElementById("remote-terminal").checked;
  press(shift);
  paste.value = "";
  screen.focus();
});

function press(shift) {
  const keys = [[0xffe3, "ControlLeft"], ...(shift ? [[0xffe1, "ShiftLeft"]] : []), [0x76, "KeyV"]];
  for (const [sym, code] of keys) screen.sendKey(sym, code, true);
  for (const [sym, code] of keys.reverse()) screen.sendKey(sym, code, false);
}

document.getElementById("full-size").addEventListener("click", () => {
  canvas.requestFullscreen?.().then(() => screen?.focus());
});
