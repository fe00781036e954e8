// The summary: what the report says, and what follows from the thresholds in the page.

function tile(name, value, interval, first, before) {
  const difference = before === undefined || before === null || value === null ? null
    : html("p", { class: "change" }, `${value >= before ? "+" : "−"}${(100 * Math.abs(value - before)).toFixed(1)} points, from ${percent(before)}`);
  const ends = interval ? `${percent(interval[0])} to ${percent(interval[1])}` : first !== null && first !== value
    ? "at the report's thresholds " + percent(first) : "";
  return html("div", { class: "tile", "data-measure": name }, html("h3", {}, name),
    html("p", { class: "big", "data-value": value === null ? "" : value }, percent(value)), bar(value, interval, `${name} ${percent(value)}`),
    difference, html("p", { class: "soft" }, ends));
}

function headline(app) {
  const { report } = app.data, own = app.measures.overall, initial = app.isInitial(), level = report.intervals.level;
  const names = { f1: "F1", precision: "Precision", recall: "Recall", mean_iou: "Mean IoU" };
  const tiles = Object.entries(names).map(([key, name]) =>
    tile(name, own[key], initial ? report.intervals[key] : null, report.overall[key],
      app.other?.measures.overall[key]));
  const counts = `${number(own.tp)} found, ${number(own.fp)} false, ${number(own.fn)} missed` +
    (own.ignored ? `, ${number(own.ignored)} not counted` : "");
  const words = [counts, plural(report.protocol.pictures, "picture"), plural(report.protocol.objects, "object")];
  if (report.coco.AP !== null && report.coco.AP !== undefined) {
    words.push(`COCO AP ${decimal(report.coco.AP)}, AP50 ${decimal(report.coco.AP50)} (scores: ${report.coco.score_source})`);
  }
  return section("Detection", html("div", { class: "tiles" }, tiles), html("p", { id: "counts" }, words.join(" · ")),
    html("p", { class: "soft" }, initial ? `Bars with ${percent(level)} intervals over pictures.`
      : "Other thresholds than the report's: intervals, AP and curves below are the report's."));
}

function comparison(app) {
  if (!app.other) return null;
  const [before, after] = app.data.runs, counts = { better: 0, worse: 0, same: 0 };
  for (const change of app.change) counts[change > 0 ? "better" : change < 0 ? "worse" : "same"]++;
  const rows = Object.entries(CHANGES).map(([key, words]) => [link(app, words, { change: key, sort: key === "same" ? "errors" : key }),
    bar(counts[key] / Math.max(1, app.boxes.pictures), null, `${words} ${counts[key]}`), number(counts[key])]);
  const classes = app.measures.perClass.map((score, label) => ({ label, objects: score.tp + score.fn, now: score.f1,
    was: app.other.measures.perClass[label].f1 })).filter(({ objects }) => objects);
  classes.sort((a, b) => a.now - a.was - b.now + b.was || a.label - b.label);
  const row = ({ label, now, was }) => [link(app, app.data.names[label], { class: app.data.names[label] }), percent(was), percent(now),
    (now >= was ? "+" : "−") + (100 * Math.abs(now - was)).toFixed(1)];
  return section(`${after} against ${before}`, html("div", { class: "halves" }, table(["pictures", "", "number"], rows),
    limited(classes, (some) => table(["class", `F1 of ${before}`, `F1 of ${after}`, "points"], some.map(row)))),
    html("p", { class: "soft" }, `A picture has got better where ${after} has fewer false and missed boxes. The rest of the page is of ${after}.`));
}

function section(title, ...children) {
  return html("section", { "aria-label": title }, html("h2", {}, title), children);
}

function link(app, text, changes) {
  return html("button", { type: "button", class: "link",
    onclick: () => app.set({ ...app.withoutFilters(), view: "pictures", ...changes }) }, text);
}

function errorBars(app) {
  const kinds = { missed: "missed", "wrong class": "wrong", "poor box": "poor", duplicate: "duplicate", "nothing there": "nothing" };
  const most = Math.max(1, ...Object.keys(kinds).map((name) => app.measures.errors[name] || 0));
  const rows = Object.entries(kinds).map(([name, kind]) => {
    const count = app.measures.errors[name] || 0;
    return [link(app, name, { kind }), bar(count / most, null, `${name} ${count}`), number(count)];
  });
  return section("What goes wrong", table(["kind of error", "", "boxes"], rows),
    html("p", { class: "soft" }, "A wrong class counts twice: its box is false, and its object is missed."));
}

const FEW = 40;

function classTable(app) {
  const heads = ["class", "F1", "", "precision", "recall", "mean IoU", "found", "false", "missed", "AP"];
  const index = app.measures.perClass.map((score, label) => ({ score, label }))
    .filter(({ score }) => score.tp + score.fp + score.fn);
  index.sort((a, b) => (a.score.f1 ?? 2) - (b.score.f1 ?? 2) || a.label - b.label);
  const row = ({ score, label }) => {
    const name = app.data.names[label], ap = app.data.report.per_class[name]?.ap;
    const by = (count, kind) => (count ? link(app, number(count), { class: name, kind }) : "0");
    return [link(app, name, { class: name }), percent(score.f1), bar(score.f1, null, `F1 of ${name} ${percent(score.f1)}`),
      percent(score.precision), percent(score.recall), percent(score.mean_iou), by(score.tp, "found"), by(score.fp, "false"),
      by(score.fn, "missed"), decimal(ap)];
  };
  return section("Classes, the worst first", limited(index, (some) => table(heads, some.map(row), { class: "classes" })));
}

// A long list starts short, with a button for the rest.
function limited(items, draw) {
  if (items.length <= FEW) return draw(items);
  const box = html("div", {}, draw(items.slice(0, FEW)));
  box.append(html("button", { type: "button", onclick: () => box.replaceChildren(draw(items)) }, `All ${number(items.length)}`));
  return box;
}

function sizeTable(app) {
  const rows = Object.entries(app.measures.sizes).map(([name, score]) => [link(app, name, { size: name }), percent(score.f1),
    bar(score.f1, null, `F1 of ${name} objects ${percent(score.f1)}`), percent(score.precision), percent(score.recall),
    number(score.tp), number(score.fp), number(score.fn)]);
  return section("Sizes", table(["size", "F1", "", "precision", "recall", "found", "false", "missed"], rows),
    html("p", { class: "soft" }, "Small: up to 32² square pixels; large: from 96²."));
}

function confusion(app) {
  const { names } = app.data, cells = [...app.measures.wrong].map(([key, count]) => [...key.split(",").map(Number), count]);
  const labels = [...new Set(names.keys())].filter((label) => {
    const score = app.measures.perClass[label];
    return score.tp + score.fp + score.fn;
  });
  const note = html("p", { class: "soft" }, "A false box and the missed object of another class that it overlaps. Rows and " +
    "columns add up to the counts above. `vlmdet eval` also prints a confusion that is matched without regard to class.");
  const cell = (count, changes) => (count ? link(app, number(count), changes) : "·");
  if (labels.length > 25) {
    const pairs = cells.sort((a, b) => b[2] - a[2]).map(([of, as, count]) => [names[of], names[as],
      cell(count, { class: names[of], as: names[as], kind: "wrong" })]);
    return section("Confusion", limited(pairs, (some) => table(["object", "taken for", "times"], some)), note);
  }
  const at = new Map(cells.map(([of, as, count]) => [of + "," + as, count]));
  const most = Math.max(1, ...cells.map(([, , count]) => count));
  const rows = labels.map((of) => {
    const score = app.measures.perClass[of];
    const taken = labels.reduce((sum, as) => sum + (at.get(of + "," + as) || 0), 0);
    return [names[of], ...labels.map((as) => {
      if (as === of) return html("b", {}, cell(score.tp, { class: names[of], kind: "found" }));
      const count = at.get(of + "," + as) || 0, node = html("span", { class: "heat" }, cell(count, { class: names[of], as: names[as], kind: "wrong" }));
      node.style.setProperty("--heat", count / most);
      return node;
    }), number(score.fn - taken)];
  });
  const last = ["nothing there", ...labels.map((as) => {
    const score = app.measures.perClass[as], taken = labels.reduce((sum, of) => sum + (at.get(of + "," + as) || 0), 0);
    return number(score.fp - taken);
  }), ""];
  return section("Confusion", table(["object ↓ taken for →", ...labels.map((label) => names[label]), "missed otherwise"],
    [...rows, last], { class: "confusion" }), note);
}

function curves(app) {
  const { report } = app.data, charts = [], byIou = Object.entries(report.overall.f1_by_iou || {});
  if (byIou.some(([, f1]) => f1 !== null)) {
    charts.push(lineChart({ title: "F1 by IoU threshold", x: "IoU threshold", y: "F1", from: 0.5,
      lines: [{ name: "F1", points: byIou.filter(([, f1]) => f1 !== null).map(([iou, f1]) => [Number(iou), f1]) }] }));
  }
  const { curve, best, calibration } = report.scores;
  if (curve) {
    charts.push(lineChart({ title: "Precision and recall along the scores", x: "recall", y: "precision",
      lines: [{ name: "", points: curve.map((point) => [point.recall, point.precision]) }],
      marks: [{ x: best.recall, y: best.precision, text: `best F1 ${decimal(best.f1)} at score ${decimal(best.threshold)}` }] }));
    if (curve.every((point) => point.threshold >= 0 && point.threshold <= 1)) {
      charts.push(lineChart({ title: `By score threshold; the best F1, ${decimal(best.f1)}, is at ${decimal(best.threshold)}`, x: "score threshold", y: "",
        lines: ["f1", "precision", "recall"].map((name) => ({ name, points: curve.map((point) => [point.threshold, point[name]]) })),
        marks: [{ x: best.threshold, y: best.f1, text: "best F1" }] }));
    }
  }
  if (calibration?.bins?.length) {
    charts.push(lineChart({ title: `Reliability of the scores; mean error ${percent(calibration.expected_calibration_error)}`, x: "mean score", y: "share right",
      diagonal: true, lines: [{ name: "", points: calibration.bins.map((bin) => [bin.mean_score, bin.share_right]) }],
      marks: calibration.bins.map((bin) => ({ x: bin.mean_score, y: bin.share_right, r: 2 + Math.sqrt(bin.count) / 4, text: plural(bin.count, "box") })) }));
  }
  return charts.length ? section("Curves", html("div", { class: "charts" }, charts)) : null;
}

function answerHealth(app) {
  const { answers } = app.data.report;
  if (!answers.n) return null;
  const rows = (counts, answer) => Object.entries(counts).map(([name, count]) =>
    [answer ? link(app, name, { answer: answer(name) }) : name, bar(count / answers.n, null, `${name} ${count}`), number(count)]);
  return section("Answers", html("p", {}, `${plural(answers.n, "answer")}, ${number(answers.missing)} missing; ${percent(answers.duplicate_rate)} of boxes repeat another.`),
    html("div", { class: "tables" }, table(["health", "", "answers"], rows(answers.health, (name) => name)),
      table(["ended by", "", "answers"], rows(answers.finish, null)),
      Object.keys(answers.problems).length ? table(["problem", "", "times"], rows(answers.problems, () => "problem")) : null));
}

function counting(app) {
  const { counting: measured } = app.data.report;
  if (!measured.n) return null;
  const rows = [["all", measured], ...Object.entries(measured.per_class).slice(0, FEW)].map(([name, errors]) =>
    [name, percent(errors.exact), bar(errors.exact, null, `${name} ${percent(errors.exact)}`), decimal(errors.mean_absolute_error, 2), decimal(errors.bias, 2)]);
  return section("Counts", table(["class", "exact", "", "mean error", "bias"], rows));
}

function questions(app) {
  const rows = Object.entries(app.data.report.tasks).map(([kind, task]) =>
    [kind, percent(task.accuracy), bar(task.accuracy, null, `${kind} ${percent(task.accuracy)}`), number(task.n)]);
  return rows.length ? section("Questions", table(["kind", "accuracy", "", "questions"], rows)) : null;
}

function protocol(app) {
  const { report } = app.data, rows = Object.entries(report.protocol).filter(([, value]) => value !== null && value !== "")
    .map(([key, value]) => [key, typeof value === "object" ? JSON.stringify(value) : String(value)]);
  return html("details", {}, html("summary", {}, "Protocol"), table(["key", "value"], rows, { class: "protocol" }));
}

function summaryView(app) {
  const { data } = app, training = data.curve ? section("Training", html("img", { src: data.curve, alt: "Training curve" })) : null;
  return [headline(app), comparison(app), errorBars(app), classTable(app), html("div", { class: "halves" }, sizeTable(app), counting(app)),
    confusion(app), curves(app), answerHealth(app), questions(app), training, protocol(app),
    data.sheet ? html("p", {}, html("a", { href: data.sheet }, "Drawn panels on one sheet")) : null].filter(Boolean);
}
