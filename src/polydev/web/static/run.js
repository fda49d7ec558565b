// One run's events with their times, as they come.
import { follow, span } from "./events.js";

const list = document.getElementById("events");
const answer = document.getElementById("answer");
const from = new Date(list.dataset.from);

follow(list.dataset.run, (event) => {
  if (event.type === "text.delta") answer.append(event.text);
  const line = document.createElement("li");
  line.value = event.number;
  for (const [name, text] of [
    ["at", `+${span(Math.max(0, new Date(event.at) - from))}`],
    ["type", event.type],
    ["said", said(event)],
  ]) {
    const part = document.createElement("span");
    part.className = name;
    part.textContent = text;
    line.append(part);
  }
  list.append(line);
});

function said(event) {
  const { number, at, type, ...fields } = event;
  if (typeof fields.text === "string") return fields.text;
  return Object.entries(fields)
    .filter(([, value]) => value !== null && value !== "")
    .map(([name, value]) => `${name.replaceAll("_", " ")}: ${value}`)
    .join(", ");
}
