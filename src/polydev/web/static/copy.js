// `<button data-copy="text">` copies its text and says so. `data-copy-from="id"` takes the text of
// another element.

const SHOWN_MS = 1500;

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy], [data-copy-from]");
  if (!button) return;
  const from = document.getElementById(button.dataset.copyFrom);
  const text = from ? from.textContent : button.dataset.copy;
  const label = (button.dataset.label ??= button.textContent);
  button.textContent = (await copied(text)) ? "Copied" : "Select it, and copy";
  setTimeout(() => {
    button.textContent = label;
  }, SHOWN_MS);
});

async function copied(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return copiedByHand(text); // a page without TLS, or a browser that forbids it
  }
}

function copiedByHand(text) {
  const area = document.createElement("textarea");
  const before = document.activeElement;
  area.value = text;
  area.className = "unseen";
  document.body.append(area);
  area.select();
  const good = document.execCommand("copy");
  area.remove();
  before?.focus();
  return good;
}
