// Follows a run's events to its end. What models say is put into the page as text, never as markup.

export function follow(run, onEvent, onLost) {
  const source = new EventSource(`/runs/${run}/events`);
  source.addEventListener("message", (message) => {
    const event = JSON.parse(message.data);
    if (event.type === "run.finished") source.close();
    onEvent(event);
  });
  source.addEventListener("error", () => {
    if (source.readyState === EventSource.CLOSED) onLost?.();
  });
  return () => source.close();
}

export function span(milliseconds) {
  return milliseconds < 999.5
    ? `${Math.round(milliseconds)} ms`
    : `${(milliseconds / 1000).toFixed(1)} s`;
}
