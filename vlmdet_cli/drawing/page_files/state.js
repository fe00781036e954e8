// What is shown, and its address: what differs from the defaults stands behind the # in the page's address.

const KINDS = {
  found: "found", missed: "missed", false: "any false box", wrong: "wrong class", duplicate: "duplicate",
  poor: "poor box", nothing: "nothing there", aside: "not counted", crowd: "crowd",
};
const ANSWERS = { unparsed: "unparsed answer", problem: "answer with problems", none: "no answer", gone: "picture gone" };
const SHAPES = { tall: "tall (over 1 : 2)", even: "even", wide: "wide (over 2 : 1)" };
const CHANGES = { better: "got better", worse: "got worse", same: "as many errors" };
const SORTS = {
  errors: "most errors", missed: "most missed", false: "most false", objects: "most objects", iou: "lowest mean IoU",
  name: "name", given: "order of the truth",
};
const CHANGE_SORTS = { better: "got better most", worse: "got worse most" };
const LAYERS = ["found", "false", "missed", "crowd", "truth"];

function defaults(data) {
  return {
    view: data.compared ? "summary" : "pictures", iou: data.iou, score: data.score_range[0], class: "", kind: "", as: "", size: "",
    shape: "", answer: "", sort: data.compared ? "errors" : "given", q: "", hide: data.compared ? "truth" : "",
    picture: "", change: "", side: "",
  };
}

function readAddress(address, initial) {
  const state = { ...initial };
  for (const [key, value] of new URLSearchParams(address.replace(/^#/, ""))) {
    if (!(key in initial)) continue;
    state[key] = typeof initial[key] === "number" ? Number(value) : value;
  }
  if (!(state.iou > 0 && state.iou <= 1)) state.iou = initial.iou;
  if (!Number.isFinite(state.score)) state.score = initial.score;
  if (!(state.sort in SORTS || state.sort in CHANGE_SORTS)) state.sort = initial.sort;
  if (!["summary", "pictures"].includes(state.view)) state.view = initial.view;
  return state;
}

function writeAddress(state, initial) {
  const changed = Object.entries(state).filter(([key, value]) => value !== initial[key]);
  return "#" + new URLSearchParams(changed.map(([key, value]) => [key, String(value)]));
}
