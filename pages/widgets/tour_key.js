// A browser keeps the key to its progress, so that a reload or another day finds it again.
const NAME = "ema-tour";

export default function ({ data, setStateValue }) {
  try {
    const kept = localStorage.getItem(NAME);
    if (!kept || data.given) localStorage.setItem(NAME, data.key);
    else if (kept !== data.key) setStateValue("key", kept);
  } catch {
    // No storage: the progress lasts as long as the session.
  }
}
