// The gallery: filters, and a list that holds only the cards near the window, however many pictures there are.

const CARD = 236, GAP = 14, IMAGE_HEIGHT = 190, CAPTION_HEIGHT = 50;

function select(label, value, options, onChange, name = label.toLowerCase()) {
  const entries = Object.entries(options).map(([key, text]) => html("option", { value: key, selected: key === value }, text));
  return html("label", {}, label + " ", html("select", { name, onchange: (event) => onChange(event.target.value) }, entries));
}

function filterForm(app) {
  const { data, state } = app, set = (key) => (value) => app.set({ [key]: value, ...(key === "class" ? { as: "" } : {}) });
  const any = (options) => ({ "": "any", ...options });
  const byBox = data.compared ? KINDS : { crowd: "crowd" };
  const search = html("input", { type: "search", name: "q", value: state.q, placeholder: "name", autocomplete: "off",
    oninput: (event) => app.set({ q: event.target.value }, { soon: true }) });
  const health = Object.fromEntries(data.healths.filter((name) => name !== "unparsed").map((name) => [name, "answer: " + name]));
  return html("form", { class: "filters", "aria-label": "Filters", onsubmit: (event) => event.preventDefault() },
    html("label", {}, "Search ", search),
    select("Class", state.class, any(Object.fromEntries(data.names.map((name) => [name, name]))), set("class")),
    select("Kind", state.kind, any(byBox), set("kind")),
    select("Size", state.size, any({ small: "small", medium: "medium", large: "large" }), set("size")),
    select("Shape", state.shape, any(SHAPES), set("shape")),
    select("Answer", state.answer, any(data.compared ? { ...ANSWERS, ...health } : { gone: ANSWERS.gone }), set("answer")),
    data.other ? select("Change", state.change, any(CHANGES), set("change")) : null,
    select("Sort", state.sort, data.other ? { ...SORTS, ...CHANGE_SORTS } : SORTS, set("sort")),
    html("button", { type: "button", onclick: () => app.set(app.withoutFilters()) }, "Reset"));
}

// The controls as the state has them, after an address or a button has changed it.
function syncControls(app, root) {
  for (const node of root.querySelectorAll(".filters select, .filters input")) {
    if (node.value !== app.state[node.name]) node.value = app.state[node.name];
  }
  for (const node of root.querySelectorAll(".layers input")) node.checked = !app.hidden().has(node.name);
}

// Whose marks are shown, where two are compared.
function sideForm(app) {
  if (!app.data.other) return null;
  const [before, after] = app.data.runs;
  return html("div", { class: "filters" }, select("Marks of", app.state.side, { "": after, before }, (side) => app.set({ side }), "side"));
}

function layerForm(app) {
  const names = { found: "✓ found", false: "✗ false", missed: "? missed", crowd: "crowd and not counted", truth: "truth of found" };
  const layers = app.data.compared ? LAYERS : ["truth", "crowd"];
  return html("fieldset", { class: "layers" }, html("legend", {}, "Show"), layers.map((layer) =>
    html("label", { class: "layer " + layer },
      html("input", { type: "checkbox", name: layer, checked: !app.hidden().has(layer), onchange: () => app.toggle(layer) }),
      html("span", { class: "swatch " + layer }), app.data.compared ? names[layer] : layer)));
}

function captionOf(app, p) {
  const { data, counts } = app;
  if (!data.compared) return plural(counts.objects[p], "object");
  const signs = { found: "✓", false: "✗", missed: "?" }, before = app.other?.counts;
  const words = Object.entries(signs).map(([key, sign]) => `${sign} ` +
    (before && before[key][p] !== counts[key][p] ? `${before[key][p]}→${counts[key][p]}` : counts[key][p]));
  return words.join("  ") + (data.pictures.answered[p] ? "" : "  no answer");
}

function card(app, p) {
  const { data } = app, [width, height] = frameOf(data, p);
  const pixel = Math.max(width / CARD, height / IMAGE_HEIGHT);
  const { boxes, match } = app.side(), marks = marksOf(data, boxes, match, p).filter((mark) => isShown(mark, app.hidden(), ""));
  return html("button", { type: "button", class: "card", "data-picture": p, onclick: () => app.open(p) },
    drawing(data, p, marks, app.source(p, false), { pixel }),
    html("span", { class: "name", title: data.pictures.name[p] }, data.pictures.name[p]),
    html("span", { class: "counts" }, captionOf(app, p)));
}

// Cards by index of the shown pictures, put where they belong in a box as high as all rows.
class VirtualList {
  constructor(app) {
    this.app = app;
    this.cards = new Map();
    this.box = html("div", { class: "list", role: "group", "aria-label": "Pictures" });
    this.frame = 0;
    const redraw = () => { if (!this.frame) this.frame = requestAnimationFrame(() => { this.frame = 0; this.draw(); }); };
    window.addEventListener("scroll", redraw, { passive: true });
    window.addEventListener("resize", redraw);
  }

  // Anew: the pictures, or their marks, are others.
  show() {
    this.draw(true);
  }

  // All measures of the layout are read before anything is changed.
  draw(anew = false) {
    if (!this.box.isConnected) return;
    const { shown } = this.app, rowHeight = IMAGE_HEIGHT + CAPTION_HEIGHT + GAP, width = this.box.clientWidth;
    const across = Math.max(1, Math.floor((width + GAP) / (CARD + GAP))), rows = Math.ceil(shown.length / across);
    const top = Math.min(-this.box.getBoundingClientRect().top, rows * rowHeight);
    const first = Math.max(0, Math.floor(top / rowHeight) - 1) * across;
    const last = Math.min(shown.length, (Math.ceil((top + window.innerHeight) / rowHeight) + 1) * across);
    this.box.style.height = rows * rowHeight + "px";
    for (const [index, node] of this.cards) {
      if (anew || index < first || index >= last) { node.remove(); this.cards.delete(index); }
    }
    const firstKept = Math.min(...this.cards.keys()), before = [], after = []; // in order, as the tab key walks them
    for (let index = first; index < last; index++) {
      let node = this.cards.get(index);
      if (!node) {
        node = card(this.app, shown[index]);
        this.cards.set(index, node);
        (index < firstKept ? before : after).push(node);
      }
      const x = (index % across) * (CARD + GAP), y = Math.floor(index / across) * rowHeight;
      node.style.transform = `translate(${x}px, ${y}px)`;
    }
    this.box.prepend(...before);
    this.box.append(...after);
  }
}
