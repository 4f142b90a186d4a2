// A plotly chart whose zoom survives new data. Streamlit calls this on every update; what must last lives on `window`.
const memory = (window.emaLiveCurve ??= { zoom: new Map(), script: null, draws: 0 });

function plotly(url) {
  if (window.Plotly) return Promise.resolve(window.Plotly);
  return (memory.script ??= new Promise((done, fail) => {
    const tag = document.createElement("script");
    tag.src = new URL(url, document.baseURI).href;
    tag.onload = () => done(window.Plotly);
    tag.onerror = () => { memory.script = null; fail(new Error("plotly could not be loaded")); };
    document.head.append(tag);
  }));
}

const plain = (text) => String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;");

// A vertical range belongs to what is shown, and in which scale.
const yView = (data) => data.view + (data.log ? "/log" : "");

function traces(data) {
  const out = [];
  for (const t of data.traces) {
    const line = { color: t.color, dash: t.dash || "solid" };
    const common = { type: "scatter", mode: t.x.length === 1 ? "markers" : t.markers ? "lines+markers" : "lines", x: t.x, legendgroup: t.id, name: plain(t.name) };
    const hover = `%{y:.4g}<extra>${plain(t.name)}</extra>`;
    if (t.low && t.high) {
      // nulls end a band: plotly would fill across them
      const known = t.x.map((_, i) => i).filter((i) => t.low[i] !== null && t.high[i] !== null);
      const back = [...known].reverse();
      out.push({
        ...common, uid: t.id + "/band", mode: "lines", x: [...known, ...back].map((i) => t.x[i]),
        y: [...known.map((i) => t.high[i]), ...back.map((i) => t.low[i])], fill: "toself", fillcolor: t.color, opacity: 0.15,
        line: { width: 0 }, showlegend: false, hoverinfo: "skip",
      });
    }
    if (data.raw) {
      out.push({ ...common, uid: t.id + "/raw", y: t.y, line: { color: t.color, width: 1 }, opacity: 0.3, showlegend: false, hoverinfo: "skip" });
      out.push({ ...common, uid: t.id, y: t.y_smooth, line: { ...line, width: 2 }, hovertemplate: hover });
    } else {
      out.push({ ...common, uid: t.id, y: t.y_smooth, line: { ...line, width: 1.6 }, hovertemplate: hover });
    }
  }
  return out;
}

function layout(data, box, zoom) {
  const css = getComputedStyle(box);
  const text = css.getPropertyValue("--st-text-color") || css.color;
  const grid = css.getPropertyValue("--st-border-color") || "rgba(128,128,128,.25)";
  const axis = (title, range, more) => ({
    title: { text: plain(title), standoff: 8 }, gridcolor: grid, linecolor: grid, zeroline: false, automargin: true,
    uirevision: ++memory.draws, // the ranges are ours to keep, not plotly's
    ...(range ? { range: [...range], autorange: false } : { autorange: true }), ...more,
  });
  const touch = window.matchMedia("(pointer: coarse)").matches;
  return {
    height: data.height, margin: { l: 8, r: 8, t: 8, b: 8 }, uirevision: "keep", showlegend: true,
    legend: { orientation: "h", x: 0, y: 1, xanchor: "left", yanchor: "bottom", maxheight: 0.3 },
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: text, family: css.fontFamily, size: 12 },
    hovermode: "x unified", hoverlabel: { bgcolor: css.getPropertyValue("--st-secondary-background-color") || undefined, font: { color: text } },
    // a step that a slider stands at
    shapes: data.marker === null || data.marker === undefined ? [] : [{
      type: "line", xref: "x", yref: "paper", x0: data.marker, x1: data.marker, y0: 0, y1: 1, line: { color: text, width: 1.5, dash: "dot" },
    }],
    modebar: { bgcolor: "rgba(0,0,0,0)", color: grid, activecolor: text }, dragmode: touch ? false : "zoom",
    xaxis: axis(data.x_title, zoom.x, { unifiedhovertitle: { text: `${plain(data.x_title)} %{x}` } }), yaxis: axis(data.y_title, zoom.y?.[yView(data)], { type: data.log ? "log" : "linear" }),
  };
}

function describe(box, plot, data, zoom) {
  const points = Object.fromEntries(data.traces.map((t) => [t.id, t.x.length]));
  const { xaxis, yaxis } = plot._fullLayout;
  box.dataset.points = JSON.stringify(points);
  box.dataset.total = Object.values(points).reduce((a, b) => a + b, 0);
  box.dataset.lastX = Math.max(...data.traces.map((t) => t.x.at(-1) ?? 0), 0);
  box.dataset.xRange = JSON.stringify(xaxis.range.map(Number));
  box.dataset.yRange = JSON.stringify(yaxis.range.map(Number));
  box.dataset.zoomed = String(Boolean(zoom.x || zoom.y?.[yView(data)]));
  box.dataset.view = data.view;
  const last = data.traces.map((t) => `${t.name} ${Number(t.y_smooth.at(-1)).toPrecision(4)}`);
  box.setAttribute("aria-label", `Chart of ${data.y_title} by ${data.x_title}. Last: ${last.join("; ")}`);
  box.dataset.marker = data.marker ?? "";
  box.querySelector(".ema-reset").hidden = box.dataset.zoomed !== "true";
}

async function draw(box, Plotly) {
  const { data, key } = box.ema;
  const plot = box.querySelector(".ema-plot");
  const zoom = memory.zoom.get(key) ?? {};
  memory.zoom.set(key, zoom); // one object for good: what listens below changes it
  if (plot._dragging) return void setTimeout(() => draw(box, Plotly), 200); // the user is in the middle of drawing a zoom box
  box.ema.drawing = true;
  await Plotly.react(plot, traces(data), layout(data, box, zoom), {
    responsive: true, displaylogo: false, modeBarButtons: [["zoom2d", "pan2d", "toImage"]], doubleClick: "autosize",
  });
  box.ema.drawing = false;
  describe(box, plot, data, zoom);
  if (box.ema.listening) return;
  box.ema.listening = true;
  plot.on("plotly_relayout", (change) => {
    if (box.ema.drawing) return;
    for (const [axis, name] of [["xaxis", "x"], ["yaxis", "y"]]) {
      const range = change[`${axis}.range`] ?? (`${axis}.range[0]` in change ? [change[`${axis}.range[0]`], change[`${axis}.range[1]`]] : null);
      const free = change[`${axis}.autorange`] === true;
      if (!range && !free) continue;
      if (name === "x") zoom.x = free ? null : range;
      else zoom.y = { ...zoom.y, [yView(box.ema.data)]: free ? null : range };
    }
    describe(box, plot, box.ema.data, zoom);
  });
  box.querySelector(".ema-reset").onclick = () => { zoom.x = null; zoom.y = {}; draw(box, Plotly); };
}

export default function ({ data, parentElement }) {
  const box = parentElement.querySelector(".ema-curve");
  const version = JSON.stringify([data.traces, data.view, data.height, data.log, data.raw, data.marker]);
  box.ema = { ...(box.ema ?? {}), data, key: data.key };
  plotly(data.script).then((Plotly) => {
    const theme = getComputedStyle(box).getPropertyValue("--st-text-color");
    if (box.ema.drawn === version + theme) return;
    box.ema.drawn = version + theme;
    return draw(box, Plotly);
  }).catch((error) => { box.querySelector(".ema-plot").textContent = `The chart cannot be drawn: ${error.message}.`; });
}
