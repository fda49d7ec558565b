// Keeps the page true: hears which topics changed, and has the parts that show them fetched again
// (they wait for the event `live-TOPIC` on the body). While a question is open nothing is exchanged
// under it, nor while a button of the mouse is down: a click ends where it began, or is none. A
// hidden page lets go of its connection, for a browser has few of them, and fetches everything when
// it is seen again; so does one that had lost the gateway.

const AGAIN_MS = 2000;
const TOPICS = ["connections", "logins", "runs", "keys"];
const offline = document.getElementById("offline");
const waiting = new Set();
let source = null;
let missed = true; // what changed since the page was rendered and before it listens
let pressed = false; // a button of the mouse, or a finger

function held() {
  return pressed || document.querySelector("dialog[open]") !== null;
}

function changed(topics) {
  for (const topic of topics) waiting.add(topic);
  if (held()) return;
  for (const topic of waiting) document.body.dispatchEvent(new CustomEvent(`live-${topic}`));
  waiting.clear();
}

function open() {
  if (source) return;
  source = new EventSource(document.body.dataset.live);
  source.addEventListener("open", () => {
    offline.hidden = true;
    document.body.dataset.following = "yes";
    if (missed) changed(TOPICS);
    missed = false;
  });
  source.addEventListener("changed", (event) => changed([event.data]));
  source.addEventListener("signed-out", () => location.reload());
  source.addEventListener("error", lost);
}

function close() {
  source?.close();
  source = null;
  missed = true;
  delete document.body.dataset.following;
}

async function lost() {
  const refused = source?.readyState === EventSource.CLOSED;
  missed = true;
  delete document.body.dataset.following;
  offline.hidden = false;
  if (!refused) return; // the browser tries again by itself
  close();
  const answer = await fetch(location.href, { method: "GET" }).catch(() => null);
  if (answer?.status === 401) location.reload();
  else setTimeout(() => document.hidden || open(), AGAIN_MS);
}

// What comes back as it was is not exchanged: nothing flickers, and nobody loses their place.
const latest = new WeakMap();
document.body.addEventListener("htmx:beforeSwap", (event) => {
  const { target, serverResponse, xhr } = event.detail;
  if (xhr.status !== 200 || !target.matches("[hx-get]")) return;
  if (held()) {
    event.detail.shouldSwap = false;
    for (const topic of TOPICS) waiting.add(topic);
    return;
  }
  const same = latest.get(target) === serverResponse;
  latest.set(target, serverResponse);
  if (same || isTypedIn(target, serverResponse)) event.detail.shouldSwap = false;
});

// Nor is what somebody has begun to type taken away, while it is still asked for.
function isTypedIn(target, response) {
  const fields = target.querySelectorAll("input[id], textarea[id]");
  return [...fields].some((field) => field.value && response.includes(`id="${field.id}"`));
}

function release() {
  pressed = false;
  setTimeout(() => changed([])); // the click itself comes after this
}

document.addEventListener("unheld", () => changed([]));
document.addEventListener("pointerdown", () => (pressed = true), true);
for (const end of ["pointerup", "pointercancel", "dragend"]) document.addEventListener(end, release, true);
window.addEventListener("blur", release);
document.addEventListener("visibilitychange", () => (document.hidden ? close() : open()));
window.addEventListener("pagehide", close);
window.addEventListener("pageshow", () => document.hidden || open());
// Not before: until then nobody fetches what has changed.
document.addEventListener("DOMContentLoaded", () => document.hidden || open());
