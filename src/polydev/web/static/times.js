// `<time datetime data-show="…">` in the viewer's own zone and words:
//   relative   3 minutes ago, in 2 hours
//   clock      the local time; with its day unless that is today
//   countdown  4:05 until then; `data-over` gives the words for when it is past
//   elapsed    12 s since then

const SPANS = [
  ["day", 86400],
  ["hour", 3600],
  ["minute", 60],
  ["second", 1],
];
const words = new Intl.RelativeTimeFormat(undefined, { numeric: "auto" });
const whole = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "long" });
const clock = new Intl.DateTimeFormat(undefined, { hour: "numeric", minute: "2-digit" });
const dayAndClock = new Intl.DateTimeFormat(undefined, {
  weekday: "short", day: "numeric", month: "short", hour: "numeric", minute: "2-digit",
});

const SHOWN = {
  relative(seconds) {
    if (Math.abs(seconds) < 5) return words.format(0, "second");
    const [unit, size] = SPANS.find(([, size]) => Math.abs(seconds) >= size);
    return words.format(Math.round(seconds / size), unit);
  },
  clock(seconds, moment) {
    const today = moment.toDateString() === new Date().toDateString();
    return (today ? clock : dayAndClock).format(moment);
  },
  countdown(seconds, moment, over) {
    return seconds > 0 ? digits(Math.ceil(seconds)) : (over ?? "over");
  },
  elapsed(seconds) {
    const passed = Math.max(0, Math.floor(-seconds));
    return passed < 60 ? `${passed} s` : `${Math.floor(passed / 60)} min ${passed % 60} s`;
  },
};

function digits(seconds) {
  const two = (number) => String(number).padStart(2, "0");
  const [hours, minutes] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60];
  return hours ? `${hours}:${two(minutes)}:${two(seconds % 60)}` : `${minutes}:${two(seconds % 60)}`;
}

export function showTimes() {
  for (const element of document.querySelectorAll("time[data-show]")) {
    const moment = new Date(element.dateTime);
    const seconds = (moment - Date.now()) / 1000;
    const text = SHOWN[element.dataset.show](seconds, moment, element.dataset.over);
    if (element.textContent !== text) element.textContent = text;
    if (!element.title) element.title = whole.format(moment);
  }
}

showTimes();
setInterval(showTimes, 1000);
document.addEventListener("htmx:afterSwap", showTimes);
