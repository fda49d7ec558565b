// What every page has: it follows what changes, asks before it ends something, shows times as the
// viewer's, copies.
import "./confirm.js";
import "./copy.js";
import "./live.js";
import "./times.js";

document.addEventListener("htmx:afterRequest", (event) => {
  const { elt, successful } = event.detail;
  if (successful && elt.matches("form[data-clear]")) elt.reset();
});

document.addEventListener("click", (event) => {
  event.target.closest("[data-dismiss]")?.closest(".toast").remove();
});
