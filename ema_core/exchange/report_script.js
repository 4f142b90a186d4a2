// Draws the figures of this file when they come near the window, in the ink of the reader's theme.
(() => {
  const figures = JSON.parse(document.getElementById("figures-data").textContent);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const ink = () => getComputedStyle(document.body).color;
  const svg = { name: "Save as SVG", icon: Plotly.Icons.disk, click: (plot) => Plotly.downloadImage(plot, { format: "svg", filename: plot.id, width: plot.clientWidth, height: plot.clientHeight }) };
  const draw = (box, figure) => Plotly.react(box, figure.data,
    { ...figure.layout, font: { ...(figure.layout.font ?? {}), color: ink() }, autosize: true },
    { displaylogo: false, responsive: true, modeBarButtonsToRemove: ["select2d", "lasso2d"], modeBarButtonsToAdd: [svg], toImageButtonOptions: { format: "png", filename: box.id, scale: 2 } });
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      seen.unobserve(entry.target);
      draw(entry.target, figures[Number(entry.target.id.slice("figure-".length)) - 1]);
    }
  }, { rootMargin: "600px" });
  const boxes = [...document.querySelectorAll(".plot")];
  for (const box of boxes) {
    box.style.minHeight = `${figures[Number(box.id.slice("figure-".length)) - 1].layout.height}px`;
    seen.observe(box);
  }
  const all = () => boxes.forEach((box, i) => draw(box, figures[i]));
  dark.addEventListener("change", all);
  window.addEventListener("beforeprint", all);
})();
