// Asks a model, shows its answer as it comes, and how long it took.
import { follow, span } from "./events.js";

const form = document.getElementById("try");
const part = (id) => document.getElementById(id);
let run = null;

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const asked = performance.now();
  begin();
  let answer;
  try {
    answer = await post(form.action, new FormData(form));
  } catch (problem) {
    end("failed", "bad", problem.message);
    return;
  }
  run = answer.run;
  part("link").href = `/runs/${run}`;
  part("stop").hidden = false;
  part("stop").disabled = false;
  let first = null;
  follow(
    run,
    (said) => {
      const now = performance.now() - asked;
      if (said.type === "run.started") state("answering", "busy");
      if (said.type === "text.delta") {
        first ??= now;
        part("first").textContent = span(first);
        part("answer").append(said.text);
      }
      if (said.type === "usage.reported") {
        part("in").textContent = said.input_tokens;
        part("out").textContent = said.output_tokens;
      }
      if (said.type === "run.finished") {
        part("took").textContent = span(now);
        end(said.outcome, TONES[said.outcome], said.message);
      }
    },
    () => end("lost", "bad", "The gateway went away. The run's own page has what came of it."),
  );
});

// Another connection brings other models; the one that was chosen stays chosen.
let chosen = null;
part("models").addEventListener("htmx:beforeSwap", () => {
  chosen = part("model")?.value;
});
part("models").addEventListener("htmx:afterSwap", () => {
  const options = [...(part("model")?.options ?? [])];
  if (options.some((option) => option.value === chosen)) part("model").value = chosen;
});

const TONES = { succeeded: "good", failed: "bad", cancelled: "calm", limited: "warn" };

part("stop").addEventListener("click", async () => {
  part("stop").disabled = true;
  const fields = new FormData(form);
  fields.delete("prompt");
  await post(`/runs/${run}/cancel`, fields).catch(() => {
    part("stop").disabled = false;
  });
});

part("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !part("ask").disabled) {
    form.requestSubmit();
  }
});

async function post(where, fields) {
  const answer = await fetch(where, {
    method: "POST",
    headers: { accept: "application/json" },
    body: new URLSearchParams(fields),
  }).catch(() => {
    throw new Error("The gateway does not answer.");
  });
  const body = answer.headers.get("content-type")?.startsWith("application/json")
    ? await answer.json()
    : {};
  if (!answer.ok) throw new Error(`${body.error?.message ?? "It failed."} ${body.error?.remedy ?? ""}`);
  return body;
}

function begin() {
  part("result").hidden = false;
  part("trouble").hidden = true;
  part("answer").textContent = "";
  for (const id of ["first", "took", "in", "out"]) part(id).textContent = "–";
  part("ask").disabled = true;
  state("asked", "busy");
}

function end(words, tone, trouble) {
  state(words, tone);
  part("ask").disabled = false;
  part("stop").hidden = true;
  part("trouble").textContent = trouble;
  part("trouble").hidden = !trouble;
}

function state(words, tone) {
  part("state").textContent = words;
  part("state").className = `badge ${tone}`;
}
