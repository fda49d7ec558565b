// Asks before a change that names a question (`hx-confirm`), in the page's own dialog.

const dialog = document.getElementById("confirm");
let asked = null;

document.body.addEventListener("htmx:confirm", (event) => {
  if (!event.detail.question) return;
  event.preventDefault();
  asked = event.detail;
  const button = event.detail.elt.querySelector("button[data-verb]");
  dialog.querySelector("p").textContent = event.detail.question;
  dialog.querySelector("#confirm-yes").textContent = button?.dataset.verb ?? "Yes";
  dialog.returnValue = "no";
  dialog.showModal();
});

dialog.addEventListener("close", () => {
  if (dialog.returnValue === "yes") asked.issueRequest(true);
  asked = null;
  // The parts of the page that waited meanwhile; see live.js.
  document.dispatchEvent(new CustomEvent("unheld"));
});
