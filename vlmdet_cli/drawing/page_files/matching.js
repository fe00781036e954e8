// Boxes as columns, and their matching: the rule of vlmdet_cli/metrics/matching.py, operation for operation, so that
// the numbers equal those of `vlmdet eval`. A picture's boxes lie together; start[p] … start[p + 1] are its own.

const COUNTS = 0, IN_CROWD = 1, NOT_SEARCHED = 2, MATCHES_IGNORED = 3, BELOW_SCORE = 4;
const TARGET = 0, CROWD = 1, IGNORED = 2;
const WRONG_CLASS = 1, DUPLICATE = 2, POOR_BOX = 3, BACKGROUND = 4;
const POOR_IOU = 0.1;  // a false box of the right class with less is no box of the object at all

function columns(given, pictures) {
  const n = given.label.length, start = new Int32Array(pictures + 1), picture = Int32Array.from(given.picture);
  for (const p of picture) start[p + 1]++;
  for (let p = 0; p < pictures; p++) start[p + 1] += start[p];
  return { n, start, picture, label: Int32Array.from(given.label), box: Float64Array.from(given.box) };
}

function boxArea(box, i) {
  return Math.max(box[4 * i + 2] - box[4 * i], 0) * Math.max(box[4 * i + 3] - box[4 * i + 1], 0);
}

function commonArea(a, i, b, j) {
  const width = Math.min(a[4 * i + 2], b[4 * j + 2]) - Math.max(a[4 * i], b[4 * j]);
  const height = Math.min(a[4 * i + 3], b[4 * j + 3]) - Math.max(a[4 * i + 1], b[4 * j + 1]);
  return Math.max(width, 0) * Math.max(height, 0);
}

// All boxes, with every pair of one picture that overlaps: by descending overlap, then prediction, then object.
function readBoxes(data) {
  const pictures = data.pictures.name.length;
  const objects = columns(data.objects, pictures), predictions = columns(data.predictions, pictures);
  objects.kind = Uint8Array.from(data.objects.kind);
  objects.area = Float64Array.from(data.objects.area);
  predictions.score = Float64Array.from(data.predictions.score);
  predictions.searched = Uint8Array.from(data.predictions.searched);
  const pairs = { target: [], ignored: [], crowd: [], other: [] };
  for (let p = 0; p < pictures; p++) {
    const own = { target: [], ignored: [], crowd: [], other: [] };
    for (let i = predictions.start[p]; i < predictions.start[p + 1]; i++) {
      const area = boxArea(predictions.box, i);
      for (let j = objects.start[p]; j < objects.start[p + 1]; j++) {
        const common = commonArea(predictions.box, i, objects.box, j);
        if (!(common > 0)) continue;
        const kind = objects.kind[j], same = predictions.label[i] === objects.label[j];
        const iou = common / (area + boxArea(objects.box, j) - common);
        if (!same) { if (kind === TARGET) own.other.push([i, j, iou]); }
        else if (kind === CROWD) own.crowd.push([i, j, common / area]);
        else own[kind === TARGET ? "target" : "ignored"].push([i, j, iou]);
      }
    }
    for (const name in own) {
      own[name].sort((a, b) => b[2] - a[2] || a[0] - b[0] || a[1] - b[1]);
      for (const pair of own[name]) pairs[name].push(pair);
    }
  }
  return { pictures, objects, predictions, pairs };
}

// One-to-one pairs with at least the threshold; `free(i)` says whether a prediction takes part.
function oneToOne(pairs, threshold, free, partner, taken, overlap) {
  for (const [i, j, iou] of pairs) {
    if (iou >= threshold && partner[i] < 0 && taken[j] < 0 && free(i)) {
      partner[i] = j;
      taken[j] = i;
      if (overlap) overlap[i] = iou;
    }
  }
}

// For each prediction its object (-1: none), their IoU, why it is left out, and the kind of error of a false one; for
// each object the prediction that finds it (-1), and the false one that names it wrongly (-1).
function matchBoxes(boxes, iou, minScore) {
  const { objects, predictions, pairs } = boxes, n = predictions.n;
  const partner = new Int32Array(n).fill(-1), overlap = new Float64Array(n), leftOut = new Uint8Array(n);
  const foundBy = new Int32Array(objects.n).fill(-1), kept = (i) => predictions.score[i] >= minScore;
  oneToOne(pairs.target, iou, kept, partner, foundBy, overlap);
  for (let i = 0; i < n; i++) {
    if (!kept(i)) leftOut[i] = BELOW_SCORE;
    else if (partner[i] < 0 && !predictions.searched[i]) leftOut[i] = NOT_SEARCHED;
  }
  for (const [i, , share] of pairs.crowd) if (share >= iou && kept(i) && partner[i] < 0) leftOut[i] = IN_CROWD;
  const aside = new Int32Array(n).fill(-1), used = new Int32Array(objects.n).fill(-1);
  oneToOne(pairs.ignored, iou, (i) => partner[i] < 0 && leftOut[i] === COUNTS, aside, used, null);
  for (let i = 0; i < n; i++) if (aside[i] >= 0) leftOut[i] = MATCHES_IGNORED;
  return { partner, overlap, leftOut, foundBy, ...kindsOfError(boxes, iou, partner, leftOut, foundBy) };
}

// A false box is a wrong class where it is paired, one to one, with a missed object of another class; else a duplicate
// of an object that another box has found; else a poor box of an object of its class; else there is nothing.
function kindsOfError({ objects, predictions, pairs }, iou, partner, leftOut, foundBy) {
  const error = new Uint8Array(predictions.n), isFalse = (i) => partner[i] < 0 && leftOut[i] === COUNTS;
  const wrongOf = new Int32Array(predictions.n).fill(-1), wrongBy = Int32Array.from(foundBy);
  oneToOne(pairs.other, iou, isFalse, wrongOf, wrongBy, null);
  for (let i = 0; i < predictions.n; i++) if (isFalse(i)) error[i] = wrongOf[i] >= 0 ? WRONG_CLASS : BACKGROUND;
  for (const [i, , value] of pairs.target) {
    if (error[i] === BACKGROUND && value >= POOR_IOU) error[i] = value >= iou ? DUPLICATE : POOR_BOX;
  }
  for (let j = 0; j < objects.n; j++) if (foundBy[j] >= 0) wrongBy[j] = -1;
  return { error, wrongOf, wrongBy };
}
