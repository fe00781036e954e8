// The large view: a picture with labels, its boxes as a list, and the raw answer with its problems.

class LargeView {
  constructor(app) {
    this.app = app;
    this.dialog = document.getElementById("large");
    this.dialog.addEventListener("close", () => {
      document.documentElement.classList.remove("covered");
      if (app.state.picture) app.set({ picture: "" });
    });
    this.dialog.addEventListener("click", (event) => { if (event.target === this.dialog) this.dialog.close(); });
  }

  show() {
    const { app, dialog } = this, p = app.data.byName.get(app.state.picture);
    if (p === undefined) {
      if (dialog.open) dialog.close();
      return;
    }
    if (!dialog.open) dialog.showModal();
    document.documentElement.classList.add("covered");
    const focused = document.activeElement, kept = focused?.name || focused?.getAttribute("aria-label");
    const { boxes, match } = app.side(), marks = marksOf(app.data, boxes, match, p);
    const shown = marks.filter((mark) => isShown(mark, app.hidden(), ""));
    const [width, height] = frameOf(app.data, p), narrow = window.innerWidth < 800;
    const wide = narrow ? window.innerWidth - 40 : window.innerWidth - 460, high = window.innerHeight * (narrow ? 0.5 : 0.86);
    const pixel = Math.max(width / wide, height / high);
    const index = app.shown.indexOf(p), name = app.data.pictures.name[p];
    const step = (by, words, text) => html("button", { type: "button", "aria-label": words, title: words,
      disabled: !app.shown[index + by] && app.shown[index + by] !== 0, onclick: () => app.step(by) }, text);
    const image = drawing(app.data, p, shown, app.source(p, true), { labels: true, pixel });
    image.style.setProperty("width", width / pixel + "px");
    image.style.setProperty("height", height / pixel + "px");
    dialog.replaceChildren(
      html("div", { class: "bar" }, step(-1, "Previous picture (←)", "←"), step(1, "Next picture (→)", "→"),
        html("h2", {}, html("bdi", {}, name)),
        html("span", { class: "soft" }, index < 0 ? "" : `${number(index + 1)} of ${number(app.shown.length)}`),
        html("button", { type: "button", "aria-label": "Close (Esc)", onclick: () => dialog.close() }, "✕")),
      html("div", { class: "sides" }, html("div", { class: "stage" }, image),
        html("div", { class: "side", tabindex: 0, role: "region", "aria-label": "Boxes and answer" }, sideForm(app), layerForm(app),
          app.data.pictures.remark[p] ? html("p", { class: "warning" }, app.data.pictures.remark[p]) : null,
          this.list(marks), this.answers(p))));
    // what had the focus has it again, though it is drawn anew
    if (kept) [...dialog.querySelectorAll("input, select, button")].find((node) => (node.name || node.getAttribute("aria-label")) === kept)?.focus();
  }

  list(marks) {
    const light = (mark, on) => () => mark.group?.classList.toggle("lit", on);
    const rows = [...marks].reverse().map((mark) => html("li", { class: "row " + mark.state, onmouseenter: light(mark, true),
      onmouseleave: light(mark, false) }, html("span", { class: "swatch " + mark.state }), wordsOf(mark)));
    return [html("h3", {}, plural(marks.length, "mark")), html("ul", { class: "boxes" }, rows)];
  }

  answers(p) {
    const source = this.app.state.side ? this.app.data.other : this.app.data.pictures, answers = source.answers[p];
    if (!this.app.data.compared) return [];
    if (!answers.length) return [html("p", { class: "soft" }, source.answered[p] ? "" : "There is no answer.")];
    return answers.map((answer) => [
      html("h3", {}, "Answer ", html("span", { class: "soft" }, `${answer.health}, finished by ${answer.finish}`)),
      html("p", { class: "prompt" }, answer.prompt), html("pre", { class: "answer" }, answer.text || "(nothing)"),
      answer.problems.length ? html("ul", { class: "problems" }, answer.problems.map(([kind, text]) =>
        html("li", {}, html("b", {}, kind), " ", html("code", {}, text)))) : null,
    ]);
  }
}
