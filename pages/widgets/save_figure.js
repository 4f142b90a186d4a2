// "SVG" and "PNG" under a figure: what is drawn just now (zoom, hidden lines and all), in dark ink on white, with its title.
const scripts = (window.emaSaveFigure ??= { plotly: null });

function plotly(url) {
  if (window.Plotly) return Promise.resolve(window.Plotly);
  return (scripts.plotly ??= new Promise((done, fail) => {
    const tag = document.createElement("script");
    tag.src = new URL(url, document.baseURI).href;
    tag.onload = () => done(window.Plotly);
    tag.onerror = () => { scripts.plotly = null; fail(new Error("plotly could not be loaded")); };
    document.head.append(tag);
  }));
}

const INK = "#1a1a1a";

function onPaper(layout, data, box) {
  const paper = structuredClone(layout);
  delete paper.template; // the page's theme: in the dark one the ink is white
  const ink = (axis) => ({ ...axis, color: INK, tickfont: { ...(axis.tickfont ?? {}), color: INK },
    title: { ...(axis.title ?? {}), font: { ...(axis.title?.font ?? {}), color: INK } }, gridcolor: "#dddddd" });
  for (const name of Object.keys(paper)) if (/^[xy]axis\d*$/.test(name)) paper[name] = ink(paper[name]);
  const sized = (font) => ({ ...(font ?? {}), color: font?.color && font.color !== "#000000" ? font.color : INK });
  paper.annotations = (paper.annotations ?? []).map((one) => ({ ...one, font: sized(one.name === "footnote" || !one.font?.color ? { ...one.font, color: INK } : one.font) }));
  const margin = paper.margin ?? {};
  const title = data.title;
  paper.title = { text: title, x: 0.01, xanchor: "left", y: 0.99, yanchor: "top", font: { size: 15, color: INK } };
  return {
    ...paper, paper_bgcolor: "#ffffff", plot_bgcolor: "#ffffff", autosize: false, width: box.width, height: box.height + 30,
    margin: { ...margin, t: (margin.t ?? 40) + 30, l: Math.max(margin.l ?? 0, 20), r: Math.max(margin.r ?? 0, 20) },
    font: { ...(paper.font ?? {}), color: INK, family: "Arial, Helvetica, sans-serif" },
    legend: { ...(paper.legend ?? {}), font: { ...(paper.legend?.font ?? {}), color: INK }, title: { font: { color: INK } } },
    updatemenus: [], sliders: [],
  };
}

async function save(data, format, say) {
  const plot = document.querySelector(`.st-key-${CSS.escape(data.figure)} .js-plotly-plot`);
  if (!plot?.data) throw new Error("the figure is not drawn yet");
  const Plotly = await plotly(data.script);
  const box = { width: Math.max(720, plot.clientWidth), height: plot.clientHeight };
  const layout = onPaper(plot.layout, data, box);
  await Plotly.downloadImage({ data: structuredClone(plot.data), layout, config: { displaylogo: false } },
    { format, filename: data.name, width: layout.width, height: layout.height, scale: format === "png" ? 2 : 1 });
  say(`Saved ${data.name}.${format}.`);
}

export default function ({ data, parentElement }) {
  const row = parentElement.querySelector(".ema-save");
  const told = row.querySelector("[role=status]");
  const say = (text) => { told.textContent = text; setTimeout(() => { if (told.textContent === text) told.textContent = ""; }, 4000); };
  for (const button of row.querySelectorAll("button")) {
    const format = button.dataset.format;
    button.setAttribute("aria-label", `Save as ${format.toUpperCase()}: ${data.title}`);
    button.onclick = () => save(data, format, say).catch((error) => say(`Not saved: ${error.message}.`));
  }
}
