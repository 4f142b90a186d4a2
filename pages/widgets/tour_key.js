// A browser keeps the key to its progress, so that a reload or another day finds it again; and a stop begins at its top.
const NAME = "ema-tour";
const memory = (window.emaTour ??= { stop: 0 });

export default function ({ data, setStateValue }) {
  if (memory.stop && data.stop && memory.stop !== data.stop) document.querySelector('[data-testid="stMain"]')?.scrollTo({ top: 0 });
  memory.stop = data.stop;
  try {
    const kept = localStorage.getItem(NAME);
    if (!kept || data.given) localStorage.setItem(NAME, data.key);
    else if (kept !== data.key) setStateValue("key", kept);
  } catch {
    // No storage: the progress lasts as long as the session.
  }
}
