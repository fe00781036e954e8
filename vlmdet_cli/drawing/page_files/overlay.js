// A picture with its marks as one SVG. A state has a line and a sign of its own, so that it is told without colour.

const SIGNS = { found: "✓", false: "✗", missed: "?", crowd: "crowd", aside: "–", truth: "" };

function frameOf(data, p) {
  const [width, height] = data.pictures.size[p];
  return width > 0 && height > 0 ? [width, height] : [4, 3];
}

function drawing(data, p, marks, source, { labels = false, pixel = 1 } = {}) {
  const [width, height] = frameOf(data, p), name = data.pictures.name[p];
  const children = [];
  const gone = (why) => [svg("rect", { class: "gone", width, height }),
    svg("text", { class: "gone", x: width / 2, y: height / 2, "text-anchor": "middle", "font-size": 14 * pixel }, why)];
  if (data.pictures.gone[p]) children.push(...gone("picture gone"));
  else {
    const image = svg("image", { href: source, width, height, preserveAspectRatio: "none" });
    image.addEventListener("error", () => image.replaceWith(...gone("picture file missing")));
    children.push(image);
  }
  const boxes = marks.map((mark) => box(mark, pixel));
  children.push(...boxes, ...(labels ? placedLabels(marks, width, height, pixel) : []));
  const words = ["found", "false", "missed"].map((state) => marks.filter((mark) => mark.state === state).length + " " + state);
  return svg("svg", { class: "drawing", viewBox: `0 0 ${width} ${height}`, role: "img",
    "aria-label": data.compared ? `${name}: ${words.join(", ")}` : name }, children);
}

function box(mark, pixel) {
  const [x1, y1, x2, y2] = mark.box;
  const place = { x: Math.min(x1, x2), y: Math.min(y1, y2), width: Math.abs(x2 - x1), height: Math.abs(y2 - y1) };
  const rects = [svg("rect", { class: "halo", ...place }), svg("rect", { class: "edge", ...place })];
  if (mark.state === "crowd") {
    const step = 8 * pixel, lines = [];
    for (let at = step; at < place.width + place.height; at += step) {
      const [xa, ya] = at < place.height ? [place.x, place.y + at] : [place.x + at - place.height, place.y + place.height];
      const [xb, yb] = at < place.width ? [place.x + at, place.y] : [place.x + place.width, place.y + at - place.width];
      lines.push(`M${xa} ${ya}L${xb} ${yb}`);
      if (lines.length > 400) break;
    }
    rects.push(svg("path", { class: "hatch", d: lines.join("") }));
  }
  const group = svg("g", { class: "mark " + mark.state }, svg("title", {}, wordsOf(mark)), rects);
  mark.group = group;
  return group;
}

function wordsOf(mark) {
  const parts = [`${mark.state === "aside" ? "not counted" : mark.state}: ${mark.label}`];
  if (mark.iou !== null) parts.push("IoU " + mark.iou.toFixed(2));
  if (mark.score !== null) parts.push("score " + mark.score.toFixed(2));
  if (mark.note) parts.push(mark.note);
  return parts.join(", ");
}

const ruler = document.createElement("canvas").getContext("2d");

// Labels at the first free spot at their box; a label without one is left out, its box has a title all the same.
function placedLabels(marks, width, height, pixel) {
  ruler.font = "600 13px system-ui, sans-serif";
  const taken = [], high = 18 * pixel, parts = [];
  for (const mark of [...marks].reverse()) {
    const name = mark.label.length > 40 ? mark.label.slice(0, 39) + "…" : mark.label;
    const text = [SIGNS[mark.state], name, mark.iou === null ? "" : mark.iou.toFixed(2)].filter(Boolean).join(" ");
    const wide = (ruler.measureText(text).width + 8) * pixel, [x1, y1, x2, y2] = mark.box;
    const spots = [[x1, y1 - high], [x1, y2], [x1, y1], [x2 - wide, y1 - high], [x2 - wide, y2], [x2, y1], [x1 - wide, y1]];
    const free = spots.map(([x, y]) => [Math.max(0, Math.min(x, width - wide)), y]).find(([x, y]) =>
      y >= 0 && y + high <= height && !taken.some(([a, b, w]) => x < a + w && a < x + wide && y < b + high && b < y + high));
    if (!free) continue;
    taken.push([...free, wide]);
    parts.push(svg("g", { class: "label " + mark.state },
      svg("rect", { x: free[0], y: free[1], width: wide, height: high, rx: 3 * pixel }),
      svg("text", { x: free[0] + 4 * pixel, y: free[1] + 13.5 * pixel, "font-size": 13 * pixel }, text)));
  }
  return parts;
}
