// Remembers in this browser who somebody is in a shared room, and says so once to each new session that asks.
const KEY = "ema-lab-room";
const memory = (window.emaRoom ??= { told: "" });

export default function ({ data, setStateValue }) {
  let kept = {};
  try {
    if (data.keep) localStorage.setItem(KEY, JSON.stringify(data.keep));
    if (data.forget) localStorage.removeItem(KEY);
    kept = JSON.parse(localStorage.getItem(KEY) || "{}") || {};
  } catch { /* no storage here: the room asks again after a reload */ }
  if (!data.ask || memory.told === data.ask) return;
  memory.told = data.ask;
  setStateValue("kept", { room: kept.room || "", name: kept.name || "", code: kept.code || "", ask: data.ask });
}
