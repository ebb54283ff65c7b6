// Draws the charts of the page with BokehJS: linked steps, smoothing, values on hover, colours of light and dark.
"use strict";
(() => {
  const charts = new Map(JSON.parse(document.getElementById("charts").textContent).map((chart) => [chart.name, chart]));
  const several = [...charts.values()].some(({ series }) => series.some(({ run }) => run > 0)); // runs: a colour each
  const drawn = [];
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const whole = allSteps();
  let shown = whole; // the steps that all charts show
  let moving = false;
  let factor = 0; // of smoothing
  const FEW = 20; // values of a curve that are drawn as points, too

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const numbers = (values) => values.map((value) => (value === null ? NaN : value));

  const legends = (plot) => plot.above.filter((part) => part.type === "Legend");

  // Exponential moving average, weighted so that the first values count in full (Adam's bias correction).
  function smooth(values) {
    let mean = 0, weight = 0;
    return values.map((value) => {
      if (!Number.isFinite(value)) return NaN;
      mean = factor * mean + (1 - factor) * value;
      weight = factor * weight + (1 - factor);
      return Number((mean / weight).toPrecision(9)); // rounding must not look like a change
    });
  }

  // A range for each chart: those of Bokeh belong to one document each. A zoom of one is handed to the others.
  function stepsOf() {
    const [start, end] = shown;
    const range = new Bokeh.Range1d({ start, end });
    const follow = () => { if (!moving) zoom(range.start, range.end); };
    range.properties.start.change.connect(follow);
    range.properties.end.change.connect(follow);
    return range;
  }

  function zoom(start, end) {
    moving = true;
    shown = [start, end];
    for (const { plot } of drawn) plot.x_range.setv({ start, end });
    moving = false;
  }

  function allSteps() {
    let low = Infinity, high = -Infinity;
    for (const { series } of charts.values())
      for (const { x } of series) { low = Math.min(low, x[0]); high = Math.max(high, x[x.length - 1]); }
    const room = Math.max(0.5, (high - low) * 0.02);
    return [low - room, high + room];
  }

  // The lowest and highest value of the axis where those of the curves alone would say too much: one that is flat is
  // no cliff, and a share is no less than 0 and no more than 1.
  function levelsOf({ share, series }) {
    const values = series.flatMap(({ y }) => y).filter(Number.isFinite);
    const low = Math.min(...values), high = Math.max(...values), room = 0.04;
    if (low === high && (share || low === 0)) return [-room, 1 + room];
    if (low === high) return [low - Math.abs(low) / 2, low + Math.abs(low) / 2];
    const pad = (high - low) / 20, least = (high - low) * room;
    return share ? [Math.max(low - pad, -least), Math.min(high + pad, 1 + least)] : null;
  }

  function draw(element) {
    const chart = charts.get(element.dataset.chart);
    if (element.drawn || chart === undefined) return;
    element.drawn = true;
    const plot = Bokeh.Plotting.figure({
      name: chart.name, height: 210, sizing_mode: "stretch_width", tools: "xbox_zoom,xpan,reset", toolbar_location: null,
      x_range: stepsOf(), min_border_right: 12,
    });
    const levels = levelsOf(chart);
    if (levels) plot.y_range = new Bokeh.Range1d({ start: levels[0], end: levels[1] });
    const named = !several && chart.series.length > 1; // several runs are named once, above all charts
    const lines = chart.series.map((one) => line(plot, one, named));
    plot.toolbar.active_drag = plot.toolbar.tools[0];
    const hover = new Bokeh.HoverTool({
      mode: "vline", renderers: lines.map((one) => one.curve), tooltips: [["", "@label"], ["step", "@x{0,0}"], ["value", "@said"]],
    });
    plot.add_tools(hover);
    if (named) {
      const inside = plot.center.filter((part) => part.type === "Legend"); // where it would lie over the curves
      plot.setv({ center: plot.center.filter((part) => !inside.includes(part)), above: [...plot.above, ...inside] });
      for (const legend of legends(plot)) legend.setv({ orientation: "horizontal", label_text_font_size: "11px", padding: 2, spacing: 6,
        margin: 0, border_line_color: null, background_fill_alpha: 0.6, click_policy: "hide" });
    }
    drawn.push({ plot, lines });
    paint(drawn.at(-1));
    Bokeh.Plotting.show(plot, element).then(() => letScroll(element));
  }

  // A finger that moves up or down over a chart scrolls the page; one that moves sideways zooms.
  function letScroll(root) {
    for (const element of root.querySelectorAll("*")) {
      if (element.classList.contains("bk-events")) element.style.touchAction = "pan-y pinch-zoom";
      if (element.shadowRoot) letScroll(element.shadowRoot);
    }
  }

  function line(plot, one, named) {
    const x = numbers(one.x), raw = numbers(one.y);
    const said = raw.map((value) => (Number.isFinite(value) ? String(Number(value.toPrecision(5))) : "not a number"));
    const source = new Bokeh.ColumnDataSource({ data: { x, y: raw, raw, said, label: x.map(() => one.label) } });
    const held = one.split === "eval";
    const options = named ? { legend_label: one.label } : {};
    const faint = plot.line({ field: "x" }, { field: "raw" }, { source, line_width: 1, line_alpha: 0.25, visible: false });
    const curve = plot.line({ field: "x" }, { field: "y" }, { source, line_width: 2, line_dash: held ? [6, 3] : [], ...options });
    const dots = held || x.length < FEW
      ? plot.scatter({ field: "x" }, { field: "y" }, { source, size: 6, ...options }) : null;
    return { one, source, faint, curve, dots, raw };
  }

  function paint({ plot, lines }) {
    const ink = colour("--ink"), soft = colour("--soft"), rule = colour("--line"), paper = colour("--paper");
    plot.setv({ background_fill_color: null, border_fill_color: null, outline_line_color: rule });
    for (const axis of [...plot.xaxes, ...plot.yaxes])
      axis.setv({ axis_line_color: rule, major_tick_line_color: rule, minor_tick_line_color: null,
        major_label_text_color: soft, major_label_text_font_size: "11px" });
    for (const axis of plot.xaxes) axis.ticker.min_interval = 1; // there are no half steps
    for (const axis of plot.yaxes) axis.formatter.setv({ power_limit_low: -4 });
    for (const grid of [...plot.xgrids, ...plot.ygrids]) grid.setv({ grid_line_color: rule, grid_line_alpha: 0.6 });
    for (const legend of legends(plot)) legend.setv({ label_text_color: ink, background_fill_color: paper });
    for (const { one, faint, curve, dots } of lines) {
      const own = colour(`--c${(several ? one.run : one.split === "eval" ? 1 : 0) % 8}`);
      faint.glyph.line_color = own;
      curve.glyph.line_color = own;
      if (dots) dots.glyph.setv({ fill_color: own, line_color: own });
    }
  }

  function update() {
    for (const { lines } of drawn)
      for (const { one, source, faint, raw } of lines) {
        const smoothed = factor > 0 && one.split === "train";
        faint.visible = smoothed;
        source.data = { ...source.data, y: smoothed ? smooth(raw) : raw };
      }
  }

  for (const element of document.querySelectorAll(".plot")) if (!element.closest("details")) draw(element);
  for (const details of document.querySelectorAll("details"))
    details.addEventListener("toggle", () => { if (details.open) { details.querySelectorAll(".plot").forEach(draw); update(); } });
  document.getElementById("smoothing")?.addEventListener("input", (event) => { factor = Number(event.target.value); update(); });
  document.getElementById("reset")?.addEventListener("click", () => zoom(...whole));
  const repaint = () => drawn.forEach(paint);
  dark.addEventListener("change", repaint);
  addEventListener("beforeprint", repaint);
})();
