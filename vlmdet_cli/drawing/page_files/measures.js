// Measures of a matching: those of vlmdet_cli/metrics/detection.py, and counts of errors.

const SIZES = { small: [0, 1024], medium: [1024, 9216], large: [9216, 1e10] };
const ERRORS = ["", "wrong class", "duplicate", "poor box", "nothing there"];

function ratio(part, whole) {
  return whole ? part / whole : null;
}

function scoreOf({ tp, fp, fn, iou }) {
  return {
    tp, fp, fn, precision: ratio(tp, tp + fp), recall: ratio(tp, tp + fn), f1: ratio(2 * tp, 2 * tp + fp + fn),
    mean_iou: ratio(iou, tp),
  };
}

function emptyCounts() {
  return { tp: 0, fp: 0, fn: 0, iou: 0 };
}

function measure({ objects, predictions }, match, names) {
  const all = emptyCounts(), classes = names.map(emptyCounts), errors = {}, wrong = new Map();
  const sizes = Object.fromEntries(Object.keys(SIZES).map((name) => [name, emptyCounts()]));
  const bySize = (area, add) => {
    for (const name in SIZES) if (area >= SIZES[name][0] && area <= SIZES[name][1]) add(sizes[name]);
  };
  let ignored = 0;
  for (let i = 0; i < predictions.n; i++) {
    const own = classes[predictions.label[i]], j = match.partner[i];
    if (j >= 0) {
      const add = (counts) => { counts.tp++; counts.iou += match.overlap[i]; };
      add(all);
      add(own);
      bySize(objects.area[j], add);
    } else if (match.leftOut[i] === COUNTS) {
      const add = (counts) => { counts.fp++; };
      add(all);
      add(own);
      bySize(boxArea(predictions.box, i), add);
      const kind = ERRORS[match.error[i]];
      errors[kind] = (errors[kind] || 0) + 1;
      if (match.error[i] === WRONG_CLASS) {
        const key = objects.label[match.wrongOf[i]] + "," + predictions.label[i];
        wrong.set(key, (wrong.get(key) || 0) + 1);
      }
    } else if (match.leftOut[i] !== BELOW_SCORE) ignored++;
  }
  for (let j = 0; j < objects.n; j++) {
    if (objects.kind[j] !== TARGET || match.foundBy[j] >= 0) continue;
    const add = (counts) => { counts.fn++; };
    add(all);
    add(classes[objects.label[j]]);
    bySize(objects.area[j], add);
    errors.missed = (errors.missed || 0) + 1;
  }
  return {
    overall: { ...scoreOf(all), ignored }, perClass: classes.map(scoreOf), errors, wrong,
    sizes: Object.fromEntries(Object.entries(sizes).map(([name, counts]) => [name, scoreOf(counts)])),
  };
}
