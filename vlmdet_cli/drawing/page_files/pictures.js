// The boxes of a picture as marks, the filters, and the order of pictures.

function shapeOf(box, i) {
  const width = box[4 * i + 2] - box[4 * i], height = box[4 * i + 3] - box[4 * i + 1];
  return width > 2 * height ? "wide" : height > 2 * width ? "tall" : "even";
}

function sizeOf(area) {
  return area < 1024 ? "small" : area < 9216 ? "medium" : "large";
}

// Whether a prediction, or an object, is of a kind that one can filter by.
function predictionIs(kind, match, i) {
  const isFalse = match.partner[i] < 0 && match.leftOut[i] === COUNTS;
  switch (kind) {
    case "found": return match.partner[i] >= 0;
    case "false": return isFalse;
    case "wrong": return match.error[i] === WRONG_CLASS;
    case "duplicate": return match.error[i] === DUPLICATE;
    case "poor": return match.error[i] === POOR_BOX;
    case "nothing": return match.error[i] === BACKGROUND;
    case "aside": return match.leftOut[i] !== COUNTS && match.leftOut[i] !== BELOW_SCORE;
    case "": return match.leftOut[i] !== BELOW_SCORE;
    default: return false;
  }
}

function objectIs(kind, objects, match, j) {
  switch (kind) {
    case "missed": return objects.kind[j] === TARGET && match.foundBy[j] < 0;
    case "crowd": return objects.kind[j] === CROWD;
    case "": return objects.kind[j] !== IGNORED;
    default: return false;
  }
}

// By its number of errors; with fewer it has got better.
function changeIs(wanted, change) {
  return !wanted || wanted === (change > 0 ? "better" : change < 0 ? "worse" : "same");
}

function answerIs(wanted, data, p) {
  const answers = data.pictures.answers[p];
  switch (wanted) {
    case "": return true;
    case "none": return data.compared && !data.pictures.answered[p];
    case "gone": return data.pictures.gone[p] !== "";
    case "unparsed": return answers.some((answer) => answer.health === "unparsed");
    case "problem": return answers.some((answer) => answer.problems.length > 0);
    default: return answers.some((answer) => answer.health === wanted);
  }
}

// Indices of the pictures that have a box, and an answer, as the state asks for.
function filterPictures(data, boxes, match, change, state) {
  const { objects, predictions } = boxes, words = state.q.toLowerCase(), label = data.names.indexOf(state.class);
  const as = data.names.indexOf(state.as), byBox = state.class || state.kind || state.size || state.shape || state.as;
  const fits = (own, area, box, i) => (!state.class || own === label) && (!state.size || sizeOf(area) === state.size) &&
    (!state.shape || shapeOf(box, i) === state.shape);
  const hasPrediction = (p) => {
    for (let i = predictions.start[p]; i < predictions.start[p + 1]; i++) {
      if (!predictionIs(state.kind, match, i)) continue;
      if (state.as) {  // a cell of the confusion: an object of the class, taken for another
        const wrong = match.wrongOf[i];
        if (wrong >= 0 && objects.label[wrong] === label && predictions.label[i] === as) return true;
      } else if (fits(predictions.label[i], boxArea(predictions.box, i), predictions.box, i)) return true;
    }
    return false;
  };
  const hasObject = (p) => {
    if (state.as) return false;
    for (let j = objects.start[p]; j < objects.start[p + 1]; j++) {
      if (objectIs(state.kind, objects, match, j) && fits(objects.label[j], objects.area[j], objects.box, j)) return true;
    }
    return false;
  };
  const shown = [];
  for (let p = 0; p < boxes.pictures; p++) {
    if ((words && !data.lowerNames[p].includes(words)) || !changeIs(state.change, change[p])) continue;
    if (answerIs(state.answer, data, p) && (!byBox || hasPrediction(p) || hasObject(p))) shown.push(p);
  }
  return shown;
}

function countPictures({ pictures, objects, predictions }, match) {
  const zeros = () => new Int32Array(pictures), counts = { found: zeros(), false: zeros(), missed: zeros(), aside: zeros(),
    objects: zeros(), iou: new Float64Array(pictures) };
  for (let i = 0; i < predictions.n; i++) {
    const p = predictions.picture[i];
    if (match.partner[i] >= 0) { counts.found[p]++; counts.iou[p] += match.overlap[i]; }
    else if (match.leftOut[i] === COUNTS) counts.false[p]++;
    else if (match.leftOut[i] !== BELOW_SCORE) counts.aside[p]++;
  }
  for (let j = 0; j < objects.n; j++) {
    if (objects.kind[j] !== TARGET) continue;
    counts.objects[objects.picture[j]]++;
    if (match.foundBy[j] < 0) counts.missed[objects.picture[j]]++;
  }
  return counts;
}

function sortPictures(shown, data, counts, change, sort) {
  const keys = {
    errors: (p) => -(counts.false[p] + counts.missed[p]) * 1e6 + counts.found[p],
    missed: (p) => -counts.missed[p], false: (p) => -counts.false[p], objects: (p) => -counts.objects[p],
    better: (p) => -change[p], worse: (p) => change[p],
    iou: (p) => (counts.found[p] ? counts.iou[p] / counts.found[p] : 2), given: (p) => p, name: (p) => data.rank[p],
  };
  const key = Float64Array.from({ length: data.pictures.name.length }, (_, p) => keys[sort](p));
  return shown.sort((a, b) => key[a] - key[b] || a - b);
}

// The marks of a picture, the least important first: {state, text, label, box, iou, score, note}.
function marksOf(data, boxes, match, p) {
  const { objects, predictions } = boxes, marks = [], corners = (columns, i) => columns.box.subarray(4 * i, 4 * i + 4);
  const asideNotes = ["", "in a crowd", "not searched for here", "an object that is ignored"];
  for (let j = objects.start[p]; j < objects.start[p + 1]; j++) {
    const name = data.names[objects.label[j]], box = corners(objects, j), common = { label: name, box, iou: null, score: null };
    if (objects.kind[j] === CROWD) marks.push({ ...common, state: "crowd", note: "not counted" });
    else if (objects.kind[j] === IGNORED) marks.push({ ...common, state: "truth", note: "ignored object" });
    else if (!data.compared || match.foundBy[j] >= 0) marks.push({ ...common, state: "truth", note: "" });
    else {
      const by = match.wrongBy[j];
      marks.push({ ...common, state: "missed", note: by >= 0 ? "taken for " + data.names[predictions.label[by]] : "" });
    }
  }
  for (let i = predictions.start[p]; i < predictions.start[p + 1]; i++) {
    if (match.leftOut[i] === BELOW_SCORE) continue;
    const mark = { label: data.names[predictions.label[i]], box: corners(predictions, i), iou: null,
      score: data.scored ? predictions.score[i] : null };
    if (match.partner[i] >= 0) marks.push({ ...mark, state: "found", iou: match.overlap[i], note: "" });
    else if (match.leftOut[i] !== COUNTS) marks.push({ ...mark, state: "aside", note: asideNotes[match.leftOut[i]] });
    else {
      const of = match.wrongOf[i];
      const note = of >= 0 ? "there is " + data.names[objects.label[of]] : ERRORS[match.error[i]];
      marks.push({ ...mark, state: "false", note });
    }
  }
  const order = ["crowd", "aside", "truth", "found", "missed", "false"];
  return marks.sort((a, b) => order.indexOf(a.state) - order.indexOf(b.state));
}

function isShown(mark, hidden, label) {
  const layer = mark.state === "aside" ? "crowd" : mark.state;
  return !hidden.has(layer) && (!label || mark.label === label);
}
