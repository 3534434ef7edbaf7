// The plan view. gradio gives `element`, `props` and `watch`; the markup is in plan.html.
// A token is (set, cell): set 0 is the source, 1 the plan at the chosen step, 2 the result.
const find = (name) => element.querySelector(name);
const root = find(".plan"), slider = find(".step"), side = find(".side"), strip = find(".strip"), grid = find(".grid");
const questions = find(".questions"), play = find(".play"), shownWords = find(".words input");
const SIDE = 8, CELLS = SIDE * SIDE, BLOCK = CELLS * CELLS, TOKENS = CELLS + 1;
const NAMES = ["your clip", "the plan", "the result"], SOURCE = 0, PLAN = 1, RESULT = 2;
const ORANGE = [232, 89, 12], STEP_MS = 700;
const group = "plan-" + Math.random().toString(36).slice(2);

let data = null, colours = null, cosines = null, names = null, question = "will", step = 0, here = 0, pointed = PLAN;
let playing = 0, cells = [], figures = [];

const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
const number = (value) => (value < -0.004 ? "−" : "") + Math.abs(value).toFixed(2);
const place = (cell) => `row ${Math.floor(cell / SIDE) + 1}, column ${(cell % SIDE) + 1}`;
const make = (tag, values, ...children) => {
  const node = Object.assign(document.createElement(tag), values);
  node.append(...children);
  return node;
};

// Blocks of 64 x 64 bytes: source-source, source-result, result-result, then three for every step:
// plan-plan, source-plan, plan-result.
function cosine(setA, a, setB, b) {
  if (setA > setB) return cosine(setB, b, setA, a);
  const fixed = { "0-0": 0, "0-2": 1, "2-2": 2 }[setA + "-" + setB];
  const moving = { "1-1": 0, "0-1": 1, "1-2": 2 }[setA + "-" + setB];
  const block = fixed !== undefined ? fixed : 3 + 3 * step + moving;
  return cosines[block * BLOCK + a * CELLS + b] / 127 - 1;
}

// Distance or likeness of a cell of a set, from 0 to 1, or null where the question says nothing about that set.
function valueOf(set, cell, at = step) {
  if (question === "alike") return cosine(pointed, here, set, cell);
  if (set !== PLAN || question === "raw") return null;
  return { will: data.planned[at], did: data.done, missed: data.missed[at] }[question][cell];
}

function rgba(set, cell, at = step) {
  const row = set === SOURCE ? 0 : set === RESULT ? 1 : 2 + at;
  if (question === "raw") return [...colours.subarray((row * CELLS + cell) * 3, (row * CELLS + cell) * 3 + 3), 255];
  const value = valueOf(set, cell, at);
  return value === null ? [0, 0, 0, 0] : [...ORANGE, Math.round(235 * Math.min(1, Math.max(0, value)))];
}

function paintVeil(canvas, set, at = step) {
  const pen = canvas.getContext("2d"), image = pen.createImageData(SIDE, SIDE);
  for (let cell = 0; cell < CELLS; cell++) image.data.set(rgba(set, cell, at), cell * 4);
  pen.putImageData(image, 0, 0);
}

// The nearest name of a token: {word, score, sure}; null for a model whose tokens have no names.
function nameOf(set, cell) {
  if (!names) return null;
  const row = set === SOURCE ? 0 : set === RESULT ? 1 : 2 + step, at = row * TOKENS + cell;
  return { word: names.words[names.indices[at]], score: names.scores[at] / 100, sure: names.sure[at] === 1 };
}

function said(set, cell) {
  const name = nameOf(set, cell);
  return name && name.sure ? `${name.word} ${name.score.toFixed(1)}` : "no sure name";
}

const forming = () => data.pictures.steps[step] || "";
const ABOUT = {
  will: () => `What the plan would change of your clip, at step ${step + 1}`,
  did: () => "What the model changed of your clip; outlined in white: what the plan meant to change",
  missed: () => `Where the picture that the model painted is unlike its plan of step ${step + 1}`,
  alike: () => `What is like ${place(here)} of ${NAMES[pointed]}; here: the plan at step ${step + 1}`,
  raw: () => `Three main directions of the tokens as colours; here: the plan at step ${step + 1}`,
};

// The pictures beside the large one: caption, address, and the set that is drawn over it.
function sideFigures() {
  const painted = ["What the model painted, before your own pixels were put back", data.pictures.painted, RESULT];
  const got = ["What you got", data.pictures.got, RESULT];
  const first = question === "alike" || question === "raw"
    ? ["Your clip", data.pictures.source, SOURCE]
    : [`The picture at step ${step + 1}`, forming(), PLAN];
  return [first, painted, got];
}

function buildGrid() {
  cells = [];
  grid.setAttribute("aria-label", "Areas of the first frame, 8 by 8");
  grid.replaceChildren(...Array.from({ length: SIDE }, (_, r) => {
    const row = make("div", { className: "row" });
    row.setAttribute("role", "row");
    for (let c = 0; c < SIDE; c++) {
      const cell = make("div", { className: "cell", tabIndex: r + c ? -1 : 0 }), index = r * SIDE + c;
      cell.setAttribute("role", "gridcell");
      cell.addEventListener("keydown", (event) => walk(event, index));
      cell.addEventListener("focus", () => point(PLAN, index));
      cells.push(cell);
      row.append(cell);
    }
    return row;
  }));
}

function buildSide() {
  figures = [0, 1, 2].map((order) => {
    const parts = {
      caption: make("figcaption"), image: make("img", { alt: "" }), mark: make("div", { className: "mark" }),
      veil: make("canvas", { className: "veil", width: SIDE, height: SIDE }),
    };
    const picture = make("div", { className: "picture" }, parts.image, parts.veil, parts.mark);
    follow(picture, () => (order === 0 && (question === "alike" || question === "raw") ? SOURCE : order ? RESULT : PLAN));
    return { ...parts, picture, figure: make("figure", {}, parts.caption, picture) };
  });
  side.replaceChildren(...figures.map((parts) => parts.figure));
}

// A pointer over a picture chooses the cell under it; a finger does so while it slides sideways.
function follow(picture, set) {
  const choose = (event) => {
    const box = picture.getBoundingClientRect();
    const at = [event.clientX - box.left, event.clientY - box.top].map((v, i) => v / [box.width, box.height][i]);
    if (at.some((v) => v < 0 || v >= 1)) return;
    point(set(), Math.floor(at[1] * SIDE) * SIDE + Math.floor(at[0] * SIDE));
  };
  picture.addEventListener("pointermove", choose);
  picture.addEventListener("pointerdown", choose);
}

function point(set, cell) {
  if (!data || (set === pointed && cell === here)) return;
  cells[here].tabIndex = -1;
  [pointed, here] = [set, cell];
  cells[here].tabIndex = 0;
  paint();
}

function walk(event, index) {
  const r = Math.floor(index / SIDE), c = index % SIDE;
  const to = { ArrowLeft: [r, c - 1], ArrowRight: [r, c + 1], ArrowUp: [r - 1, c], ArrowDown: [r + 1, c],
    Home: [r, 0], End: [r, SIDE - 1] }[event.key];
  if (!to) return;
  event.preventDefault();
  if (to.some((value) => value < 0 || value >= SIDE)) return;
  cells[to[0] * SIDE + to[1]].focus();
}

function paint() {
  if (!data) return;
  const under = question === "missed" ? data.pictures.painted
    : question === "alike" ? forming() || data.pictures.source : data.pictures.source;
  find(".under").src = under;
  find(".large").classList.toggle("grey", true);
  find(".about").textContent = ABOUT[question]();
  paintVeil(find(".large .veil"), PLAN);
  sideFigures().forEach(([caption, address, set], order) => {
    const parts = figures[order];
    parts.figure.hidden = !address;
    parts.caption.textContent = caption;
    if (parts.image.getAttribute("src") !== address) parts.image.src = address;
    const veiled = order < 2 && (question === "alike" || question === "raw");
    parts.veil.hidden = !veiled;
    parts.picture.classList.toggle("grey", veiled);
    if (veiled) paintVeil(parts.veil, set);
    parts.mark.style.left = `${12.5 * (here % SIDE)}%`;
    parts.mark.style.top = `${12.5 * Math.floor(here / SIDE)}%`;
  });
  cells.forEach((cell, i) => paintCell(cell, i));
  find(".legend").classList.toggle("off", question === "raw");
  const [low, high] = question === "alike" ? ["0 nothing in common", "1 the same"] : ["0 the same", "1 nothing in common"];
  [find(".legend span").textContent, find(".legend i + span").textContent] = [low, high];
  find(".line").textContent = question === "alike" ? "" : `line: a change from ${number(data.limit)} on`;
  find(".legend b").hidden = question === "alike";
  find(".legend b").style.left = `${100 * Math.min(1, data.limit)}%`;
  find(".readout").textContent = readout();
  find(".counter").textContent = `${step + 1} of ${data.steps}`;
  slider.value = step + 1;
  slider.setAttribute("aria-valuetext", `step ${step + 1} of ${data.steps}`);
  paintAgreement();
  Object.assign(root.dataset, { step: step + 1, question, cell: here, set: pointed });
  strip.querySelectorAll("button").forEach((button, i) => {
    button.setAttribute("aria-current", String(i === step));
    paintVeil(button.querySelector("canvas"), PLAN, i);
  });
  const current = strip.children[step];
  strip.scrollLeft = current.offsetLeft - strip.offsetLeft - (strip.clientWidth - current.clientWidth) / 2;
}

// Whether a cell passes the line in what the question asks about.
function isMarked(i) {
  const asked = { did: data.done, missed: data.missed[step] }[question] || data.planned[step];
  return asked[i] >= data.limit;
}

// The name to write on a cell: what it is to become, or became, where that is sure and new.
function labelOf(i) {
  const name = nameOf(question === "will" || question === "alike" ? PLAN : RESULT, i);
  if (!name || !name.sure || question === "raw") return "";
  return question === "alike" || (isMarked(i) && nameOf(SOURCE, i).word !== name.word) ? name.word : "";
}

function paintCell(cell, i) {
  const value = valueOf(PLAN, i), marked = isMarked(i);
  const counts = question === "will" || question === "did" || question === "missed";
  const last = data.planned[data.steps - 1][i] >= data.limit;
  cell.classList.toggle("meant", counts && question !== "did" && marked);
  cell.classList.toggle("outlined", question === "did" && last);
  cell.classList.toggle("here", i === here);
  const label = labelOf(i), repeated = (i % SIDE && labelOf(i - 1) === label) || (i >= SIDE && labelOf(i - SIDE) === label);
  cell.replaceChildren(...(label && !repeated && shownWords.checked ? [make("span", { textContent: label })] : []));
  const told = value === null ? "" : `, ${number(value)}${label ? `, ${label}` : ""}`;
  cell.setAttribute("aria-label", place(i) + told);
  cell.setAttribute("aria-selected", String(i === here));
}

function readout() {
  const likeness = `Your clip ↔ plan ${number(1 - data.planned[step][here])} · plan ↔ result ` +
    `${number(1 - data.missed[step][here])} · your clip ↔ result ${number(1 - data.done[here])}.`;
  const where = place(here).replace("row", "Row");
  const words = names ? `your clip ${said(SOURCE, here)} → plan ${said(PLAN, here)} → result ${said(RESULT, here)}. ` : "";
  if (question !== "alike") return `${where}: ${words}${likeness}`;
  const best = [SOURCE, PLAN, RESULT].map((set) => {
    let found = -1;
    for (let i = 0; i < CELLS; i++) {
      if ((set !== pointed || i !== here) && (found < 0 || cosine(pointed, here, set, i) > cosine(pointed, here, set, found))) found = i;
    }
    return `${NAMES[set]} ${place(found)} (${number(cosine(pointed, here, set, found))})`;
  });
  return `${where} of ${NAMES[pointed]}: ${words}Most alike: ${best.join("; ")}.`;
}

function paintAgreement() {
  const last = Math.max(1, data.steps - 1), x = (i) => (100 * i) / last, y = (value) => 38 - 36 * Math.max(0, value);
  const line = (values) => values.map((value, i) => `${x(i)},${y(value)}`).join(" ");
  find(".settled").setAttribute("points", line(data.settled));
  find(".followed").setAttribute("points", line(data.followed));
  for (const [key, value] of Object.entries({ x1: x(step), x2: x(step), y1: 0, y2: 40 })) find(".at").setAttribute(key, value);
  const from = (values) => `${number(values[0])} → ${number(values[data.steps - 1])}, now ${number(values[step])}`;
  find(".agreement figcaption").replaceChildren(
    make("b", { textContent: `Plan like the last plan: ${from(data.settled)}` }),
    make("b", { textContent: `Plan like the finished picture: ${from(data.followed)}` }),
    make("span", { textContent: `Token of the whole picture, plan like result: now ${number(data.whole[step])}. Steps run from left to right, scale 0 to 1.` }),
  );
}

function buildQuestions() {
  questions.replaceChildren(questions.querySelector("legend"), ...Object.entries(props.questions).map(([key, label]) => {
    const input = make("input", { type: "radio", name: group, value: key, checked: key === question });
    input.addEventListener("change", () => { question = key; paint(); });
    return make("label", {}, input, label);
  }));
}

function buildStrip() {
  strip.replaceChildren(...Array.from({ length: data.steps }, (_, i) => {
    const image = make("img", { alt: "", src: data.pictures.steps[i] || data.pictures.source });
    const picture = make("div", { className: "picture grey" }, image, make("canvas", { className: "veil", width: SIDE, height: SIDE }));
    const button = make("button", { type: "button" }, picture, String(i + 1));
    button.setAttribute("aria-label", `Step ${i + 1}`);
    button.addEventListener("click", () => go(i));
    return button;
  }));
}

function go(to) {
  stop();
  step = to;
  paint();
}

function stop() {
  clearInterval(playing);
  playing = 0;
  play.textContent = "Play the steps";
}

play.addEventListener("click", () => {
  if (playing) { stop(); return; }
  if (step === data.steps - 1) step = 0;
  else step += 1;
  paint();
  play.textContent = "Pause";
  playing = setInterval(() => {
    if (!data || step >= data.steps - 1 || !element.isConnected) { stop(); return; }
    step += 1;
    paint();
  }, STEP_MS);
});

function show(value) {
  stop();
  data = value && value.steps ? value : null;
  find(".empty").textContent = (value && value.message) || props.empty || "";
  find(".empty").hidden = !!data;
  find(".shown").hidden = !data;
  if (!data) return;
  colours = bytes(data.colours);
  cosines = bytes(data.cosines);
  names = data.names && {
    words: data.names.words, scores: bytes(data.names.scores), sure: bytes(data.names.sure),
    indices: new Uint16Array(bytes(data.names.indices).buffer),
  };
  step = data.steps - 1;
  const strongest = data.planned[step].indexOf(Math.max(...data.planned[step]));
  [pointed, here] = [PLAN, strongest];
  slider.max = data.steps;
  root.style.setProperty("--aspect", data.aspect);
  find(".title").textContent = `“${data.title}”`;
  find(".told").textContent = data.told;
  find(".note").textContent = [data.place, data.origin, data.names ? data.names.note : ""].join(" ");
  find(".words").hidden = !names;
  buildGrid();
  cells[0].tabIndex = -1;
  cells[here].tabIndex = 0;
  buildSide();
  buildQuestions();
  buildStrip();
  paint();
}

follow(find(".large"), () => PLAN);
slider.addEventListener("input", () => go(Number(slider.value) - 1));
shownWords.addEventListener("change", paint);
watch("value", () => show(props.value));
show(props.value);
