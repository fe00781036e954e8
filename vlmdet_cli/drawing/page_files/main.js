// The page: its data, the thresholds, the two views and the large picture, all driven by one state and its address.

class App {
  constructor(data) {
    this.data = data;
    data.byName = new Map(data.pictures.name.map((name, p) => [name, p]));
    data.lowerNames = data.pictures.name.map((name) => name.toLowerCase());
    data.healths = [...new Set(data.pictures.answers.flat().map((answer) => answer.health))];
    data.rank = new Int32Array(data.pictures.name.length);
    const compare = new Intl.Collator("en", { numeric: true }).compare;
    [...data.rank.keys()].sort((a, b) => compare(data.pictures.name[a], data.pictures.name[b])).forEach((p, rank) => { data.rank[p] = rank; });
    this.boxes = readBoxes(data);
    this.other = data.other ? { boxes: readBoxes({ ...data, predictions: data.other.predictions }) } : null;
    this.change = new Int32Array(this.boxes.pictures);
    this.initial = defaults(data);
    this.state = readAddress(location.hash, this.initial);
    this.main = document.querySelector("main");
    this.list = new VirtualList(this);
    this.large = new LargeView(this);
    this.timer = 0;
    window.addEventListener("hashchange", () => this.follow());
    document.addEventListener("keydown", (event) => this.onKey(event));
    this.controls();
    this.render({});
    if (data.compared) this.check();
  }

  // --- state

  isInitial() {
    return this.state.iou === this.initial.iou && this.state.score === this.initial.score;
  }

  withoutFilters() {
    const { class: label, kind, as, size, shape, answer, change, q, picture } = this.initial;
    return { class: label, kind, as, size, shape, answer, change, q, picture };
  }

  hidden() {
    return new Set(this.state.hide.split(",").filter(Boolean));
  }

  toggle(layer) {
    const hidden = this.hidden();
    if (!hidden.delete(layer)) hidden.add(layer);
    this.set({ hide: [...hidden].join(",") });
  }

  // `soon`: while someone types or drags, the address follows a moment later and makes no step to go back to.
  set(changes, { soon = false } = {}) {
    const before = this.state;
    this.state = { ...before, ...changes };
    clearTimeout(this.timer);
    const address = writeAddress(this.state, this.initial);
    if (soon) this.timer = setTimeout(() => location.replace(address), 200);
    else location.hash = address;
    this.render(before);
  }

  follow() {
    if (location.hash.replace(/^#/, "") === writeAddress(this.state, this.initial).slice(1)) return;
    const before = this.state;
    this.state = readAddress(location.hash, this.initial);
    this.controls();
    this.render(before);
  }

  // The boxes and the matching whose marks are shown.
  side() {
    return this.state.side === "before" && this.other ? this.other : this;
  }

  rematch() {
    const { iou, score } = this.state, least = score > this.initial.score ? score : -Infinity;
    for (const side of [this, this.other].filter(Boolean)) {
      side.match = matchBoxes(side.boxes, iou, least);
      side.measures = measure(side.boxes, side.match, this.data.names);
      side.counts = countPictures(side.boxes, side.match);
    }
    if (!this.other) return;
    const [before, after] = [this.other.counts, this.counts];
    this.change = this.change.map((_, p) => before.false[p] + before.missed[p] - after.false[p] - after.missed[p]);
  }

  open(p) {
    this.set({ picture: this.data.pictures.name[p] });
  }

  step(by) {
    const index = this.shown.indexOf(this.data.byName.get(this.state.picture)), next = this.shown[index + by];
    if (next !== undefined) this.set({ picture: this.data.pictures.name[next] }, { soon: true });
  }

  onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const typing = event.target.matches?.("input:not([type=checkbox]), select, textarea");
    if (this.state.picture && (!typing || event.target.type === "range")) {
      const by = { ArrowRight: 1, j: 1, ArrowLeft: -1, k: -1 }[event.key];
      if (by) { event.preventDefault(); this.step(by); }
    } else if (!typing && event.key === "/") {
      event.preventDefault();
      if (this.state.view !== "pictures") this.set({ view: "pictures" });
      document.querySelector("input[name=q]").focus();
    }
  }

  // --- what is drawn

  source(p, large) {
    const { images } = this.data;
    if (images.embedded) return images.embedded[p];
    const file = String(p + 1).padStart(5, "0") + ".jpg";
    return (large && images.large[p] ? "pictures/" : "thumbs/") + file;
  }

  controls() {
    const form = document.getElementById("thresholds");
    document.querySelector("nav").replaceChildren();
    form.replaceChildren();
    form.onsubmit = (event) => event.preventDefault();
    if (!this.data.compared) return;
    const slider = (key, label, attributes) => {
      const output = html("output", {}, this.state[key].toFixed(2));
      const input = html("input", { type: "range", name: key, value: this.state[key], step: 0.01, ...attributes, oninput: (event) => {
        output.textContent = Number(event.target.value).toFixed(2);
        this.set({ [key]: Number(event.target.value) }, { soon: true });
      } });
      return html("label", {}, label + " ", input, " ", output);
    };
    form.append(slider("iou", "IoU from", { min: 0.05, max: 1 }));
    if (this.data.scored) form.append(slider("score", "Score from", { min: this.data.score_range[0], max: this.data.score_range[1] }));
    form.append(html("button", { type: "button", onclick: () => { this.set({ iou: this.initial.iou, score: this.initial.score }); this.controls(); } }, "As evaluated"));
    for (const [view, name] of [["summary", "Summary"], ["pictures", "Pictures"]]) {
      document.querySelector("nav").append(html("button", { type: "button", "data-view": view, onclick: () => this.set({ view }) }, name));
    }
  }

  render(before) {
    const { state } = this, changed = (...keys) => keys.some((key) => state[key] !== before[key]);
    const rematched = changed("iou", "score");
    if (rematched) this.rematch();
    const filters = ["class", "kind", "as", "size", "shape", "answer", "change", "q", "sort"], filtered = rematched || changed(...filters);
    if (filtered) {
      const chosen = filterPictures(this.data, this.boxes, this.match, this.change, state);
      this.shown = sortPictures(chosen, this.data, this.counts, this.change, state.sort);
    }
    for (const button of document.querySelectorAll("nav button")) {
      button.setAttribute("aria-current", button.dataset.view === state.view ? "page" : "false");
    }
    if (changed("view") || (state.view === "summary" && rematched)) this.drawView();
    if (state.view === "pictures" && !changed("view") && (filtered || changed("hide", "side"))) this.drawList();
    if (rematched || filtered || changed("picture", "hide", "side")) this.large.show();
  }

  drawView() {
    const isSummary = this.state.view === "summary", top = window.scrollY;
    this.main.classList.toggle("wide", !isSummary);
    if (isSummary) this.main.replaceChildren(...summaryView(this));
    else {
      const shown = html("p", { id: "shown", role: "status" });
      this.main.replaceChildren(html("div", { class: "tools" }, filterForm(this), sideForm(this) || "", layerForm(this), shown), this.list.box);
      this.drawList();
    }
    window.scrollTo(0, isSummary ? top : 0);
  }

  drawList() {
    this.list.show();
    syncControls(this, this.main);
    document.getElementById("shown").textContent = `${number(this.shown.length)} of ${plural(this.boxes.pictures, "picture")}`;
  }

  // The page's own numbers must be the report's where nothing is changed.
  check() {
    const { overall } = this.data.report, whole = this.data.left_out === 0;
    const match = matchBoxes(this.boxes, this.initial.iou, -Infinity), own = measure(this.boxes, match, this.data.names).overall;
    const differs = ["tp", "fp", "fn"].some((key) => own[key] !== overall[key]);
    const words = [...this.data.notes];
    if (whole && differs) words.push("The numbers of this page differ from those of the report: please report this as a bug.");
    if (words.length) document.querySelector("header").append(html("ul", { class: "warning" }, words.map((word) => html("li", {}, word))));
  }
}

new App(JSON.parse(document.getElementById("data").textContent));
