// Charts of a machine's page. Colours are those of the style sheet, in the light and in the dark.
"use strict";
(() => {
  const EVERY = 60000;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const bytes = (count) => {
    let value = count;
    let unit = "B";
    for (const larger of ["KiB", "MiB", "GiB", "TiB"]) { if (value < 1024) break; value /= 1024; unit = larger; }
    return `${value >= 100 ? value.toFixed(0) : +value.toFixed(1)} ${unit}`;
  };
  const seconds = (count) => (count >= 7200 ? `${+(count / 3600).toFixed(1)} h` : count >= 120 ? `${+(count / 60).toFixed(1)} min` : `${+count.toFixed(1)} s`);
  const charts = new Map();
  const cache = new Map();
  const series = (url) => {
    if (!cache.has(url)) cache.set(url, fetch(url).then((answer) => { if (!answer.ok) throw new Error(answer.status); return answer.json(); }));
    return cache.get(url);
  };

  const draw = async (element) => {
    const told = element.dataset.unit === "bytes" ? bytes : seconds;
    let data;
    try { data = await series(element.dataset.series); } catch { return; }
    if (data.at.length < 2) { element.classList.add("empty"); element.textContent = "Not enough reports yet: there is one a minute."; return; }
    if (!charts.has(element)) { element.classList.remove("empty"); element.textContent = ""; charts.set(element, echarts.init(element, null, { renderer: "canvas" })); }
    const lines = element.dataset.lines.split(",").map((one) => one.split(":"));
    const text = colour("--muted");
    const grid = { lineStyle: { color: colour("--line") } };
    const most = Math.max(0, ...lines.flatMap(([name]) => data[name].map((value) => value ?? 0)));
    // Steps of bytes are powers of two, so that they are round in KiB and MiB.
    const step = told === bytes ? 2 ** Math.ceil(Math.log2(Math.max(most, 3072) / 3)) : undefined;
    charts.get(element).setOption({
      animation: false,
      aria: { enabled: true },
      color: [colour("--chart-1"), colour("--chart-2")],
      grid: { left: 62, right: 10, top: lines.length > 1 ? 30 : 12, bottom: 26 },
      legend: { show: lines.length > 1, top: 0, textStyle: { color: text } },
      // Rich text is drawn; HTML would bring inline styles, which the page's policy refuses.
      tooltip: { trigger: "axis", renderMode: "richText", valueFormatter: (value) => (value == null ? "–" : told(value)) },
      xAxis: { type: "time", axisLabel: { color: text, hideOverlap: true }, axisLine: grid, splitLine: { show: false } },
      yAxis: { type: "value", min: 0, interval: step, max: step && step * Math.max(1, Math.ceil(most / step)), axisLabel: { color: text, formatter: told }, splitLine: grid, splitNumber: 3 },
      series: lines.map(([name, label], index) => ({
        name: label, type: "line", showSymbol: false, sampling: "max", lineStyle: { width: 1.6, type: index ? "dashed" : "solid" },
        areaStyle: lines.length === 1 ? { opacity: 0.15 } : undefined,
        data: data.at.map((at, i) => [at, data[name][i]]),
      })),
    });
    element.dataset.drawn = "yes";
  };
  const all = () => {
    for (const [element, chart] of charts) if (!element.isConnected) { chart.dispose(); charts.delete(element); }
    for (const element of document.querySelectorAll(".chart[data-series]")) draw(element);
  };
  const fresh = () => { cache.clear(); all(); };
  fresh();
  setInterval(() => { if (!document.hidden) fresh(); }, EVERY);
  dark.addEventListener("change", all);
  addEventListener("resize", () => { for (const chart of charts.values()) chart.resize(); });
  document.addEventListener("standby:followed", () => {
    if (document.querySelector(".chart[data-series]:not([data-drawn])")) all();
  });
})();
