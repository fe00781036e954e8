// Charts as inline SVG, each with its numbers as text for those who do not see it.

function bar(value, interval = null, title = "") {
  const parts = [svg("rect", { class: "ground", x: 0, y: 2, width: 100, height: 12 })];
  if (value !== null) parts.push(svg("rect", { class: "value", x: 0, y: 2, width: 100 * value, height: 12 }));
  if (interval) {
    const [low, high] = interval.map((end) => 100 * end);
    parts.push(svg("path", { class: "interval", d: `M${low} 4V12M${low} 8H${high}M${high} 4V12` }));
  }
  return svg("svg", { class: "bar", viewBox: "0 0 100 16", preserveAspectRatio: "none", role: "img",
    "aria-label": title || percent(value) }, parts);
}

// lines: [{name, points: [[x, y], …], dash}], both axes 0…1; marks: [{x, y, text}]
function lineChart({ title, x, y, lines, marks = [], diagonal = false, from = 0 }) {
  const [left, top, width, height] = [44, 24, 340, 212];
  const px = (value) => left + width * (value - from) / (1 - from), py = (value) => top + height * (1 - value);
  const parts = [];
  for (let step = 0; step <= 5; step++) {
    const value = step / 5, across = from + (1 - from) * value;
    parts.push(svg("path", { class: "grid", d: `M${left} ${py(value)}h${width}` }));
    parts.push(svg("text", { x: left - 6, y: py(value) + 4, "text-anchor": "end" }, value.toFixed(1)));
    parts.push(svg("text", { x: px(across), y: top + height + 18, "text-anchor": "middle" }, across.toFixed(from ? 2 : 1)));
  }
  parts.push(svg("text", { x: left + width / 2, y: top + height + 38, "text-anchor": "middle" }, x));
  parts.push(svg("text", { x: left, y: 14 }, y));
  if (diagonal) parts.push(svg("path", { class: "diagonal", d: `M${px(0)} ${py(0)}L${px(1)} ${py(1)}` }));
  lines.forEach((line, index) => {
    const d = line.points.map(([a, b], i) => (i ? "L" : "M") + px(a).toFixed(1) + " " + py(b).toFixed(1)).join("");
    parts.push(svg("path", { class: "line line" + index, d }));
  });
  for (const mark of marks) {
    parts.push(svg("circle", { class: "mark", cx: px(mark.x), cy: py(mark.y), r: mark.r || 4 }, svg("title", {}, mark.text)));
  }
  const keys = lines.length > 1
    ? html("p", { class: "keys" }, lines.map((line, index) => html("span", { class: "key" + index }, line.name))) : null;
  return html("figure", { class: "chart" }, html("figcaption", {}, title),
    svg("svg", { viewBox: "0 0 400 276", role: "img", "aria-label": title }, parts), keys);
}

function table(heads, rows, attributes = {}) {
  return html("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": heads.filter(Boolean).join(", ") },
    html("table", attributes,
      html("thead", {}, html("tr", {}, heads.map((head) => html(head ? "th" : "td", { scope: head ? "col" : null }, head)))),
      html("tbody", {}, rows.map((cells) => html("tr", {}, cells.map((cell, index) =>
        html(index ? "td" : "th", index ? { class: cell instanceof SVGElement && "bar" } : { scope: "row" }, cell)))))));
}
