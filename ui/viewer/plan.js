// The plan view. gradio gives `element`, `props` and `watch`; the markup is in plan.html.
// A token is (set, cell): set 0 is the source, 1 the plan at the chosen step, 2 the result.
const find = (name) => element.querySelector(name);
const root = find(".plan"), slider = find(".step"), figures = find(".figures"), strip = find(".strip");
const modes = find(".modes"), readout = find(".readout");
const SIDE = 8, CELLS = SIDE * SIDE, BLOCK = CELLS * CELLS;
const NAMES = ["source", "plan", "result"], SOURCE = 0, PLAN = 1, RESULT = 2;
const group = "plan-" + Math.random().toString(36).slice(2);

let data = null, colours = null, cosines = null, mode = "pca", picked = null, step = 0, cells = [];

const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));

// Blocks of 64 x 64 bytes: source-source, source-result, result-result, then three for every step:
// plan-plan, source-plan, plan-result.
function cosine(setA, a, setB, b) {
  if (setA > setB) return cosine(setB, b, setA, a);
  const fixed = { "0-0": 0, "0-2": 1, "2-2": 2 }[setA + "-" + setB];
  const moving = { "1-1": 0, "0-1": 1, "1-2": 2 }[setA + "-" + setB];
  const block = fixed !== undefined ? fixed : 3 + 3 * step + moving;
  return cosines[block * BLOCK + a * CELLS + b] / 127 - 1;
}

function rgb(set, cell) {
  const row = set === SOURCE ? 0 : set === RESULT ? 1 : 2 + step;
  return Array.from(colours.subarray((row * CELLS + cell) * 3, (row * CELLS + cell) * 3 + 3));
}

function diverging(value) {
  const ends = [[33, 102, 172], [247, 247, 247], [178, 24, 43]], t = Math.min(1, Math.abs(value));
  return ends[1].map((c, i) => Math.round(c + (ends[value < 0 ? 0 : 2][i] - c) * t));
}

function valueOf(set, cell) {
  if (mode === "similarity" && picked) return cosine(picked.set, picked.cell, set, cell);
  if (mode === "outcome") return set === SOURCE ? cosine(SOURCE, cell, PLAN, cell) : cosine(PLAN, cell, RESULT, cell);
  return null;
}

const place = (cell) => `row ${Math.floor(cell / SIDE) + 1}, column ${(cell % SIDE) + 1}`;
const number = (value) => (value < 0 ? "−" : "") + Math.abs(value).toFixed(2);

function buildGrid(set) {
  const figure = document.createElement("figure"), caption = document.createElement("figcaption");
  const titles = [["Source", "its tokens"], ["Plan", "at this step"], ["Result", "its tokens"]];
  caption.append(titles[set][0] + " ", Object.assign(document.createElement("small"), { textContent: titles[set][1] }));
  const picture = document.createElement(set === PLAN ? "div" : "img");
  if (set === PLAN) Object.assign(picture, { className: "words", textContent: data.planWords });
  else Object.assign(picture, { className: "frame", src: data.pictures[set === SOURCE ? 0 : 1], alt: titles[set][0] + ", first frame" });
  const grid = document.createElement("div");
  grid.className = "grid";
  grid.setAttribute("role", "grid");
  grid.setAttribute("aria-label", `Tokens of the ${NAMES[set]}, 8 by 8`);
  cells[set] = [];
  for (let r = 0; r < SIDE; r++) {
    const row = document.createElement("div");
    row.className = "row";
    row.setAttribute("role", "row");
    for (let c = 0; c < SIDE; c++) {
      const cell = document.createElement("div"), index = r * SIDE + c;
      cell.className = "cell";
      cell.setAttribute("role", "gridcell");
      cell.tabIndex = index === 0 ? 0 : -1;
      cell.addEventListener("click", () => pick(set, index));
      cell.addEventListener("keydown", (event) => walk(event, set, index));
      cells[set].push(cell);
      row.append(cell);
    }
    grid.append(row);
  }
  figure.append(caption, picture, grid);
  return figure;
}

function walk(event, set, index) {
  const r = Math.floor(index / SIDE), c = index % SIDE;
  const to = { ArrowLeft: [r, c - 1], ArrowRight: [r, c + 1], ArrowUp: [r - 1, c], ArrowDown: [r + 1, c] }[event.key];
  if (event.key === "Enter" || event.key === " ") { event.preventDefault(); pick(set, index); return; }
  if (!to) return;
  event.preventDefault();
  if (to.some((value) => value < 0 || value >= SIDE)) return;
  const next = to[0] * SIDE + to[1];
  cells[set][index].tabIndex = -1;
  cells[set][next].tabIndex = 0;
  cells[set][next].focus();
  pick(set, next);
}

function pick(set, cell) {
  picked = { set, cell };
  setMode("similarity");
}

function setMode(next) {
  mode = next;
  if (mode === "similarity" && !picked) picked = { set: SOURCE, cell: 27 };
  for (const input of modes.querySelectorAll("input")) input.checked = input.value === mode;
  paint();
}

function paint() {
  if (!data) return;
  const best = [];
  for (let set = 0; set < 3; set++) {
    best[set] = { cell: -1, value: -2 };
    cells[set].forEach((cell, i) => {
      const value = valueOf(set, i), own = picked && picked.set === set && picked.cell === i;
      cell.style.background = `rgb(${(value === null ? rgb(set, i) : diverging(value)).join(",")})`;
      cell.setAttribute("aria-selected", String(mode === "similarity" && !!own));
      cell.setAttribute("aria-label", place(i) + (value === null ? "" : `, similarity ${number(value)}`));
      cell.classList.remove("best");
      if (value !== null && !own && value > best[set].value) best[set] = { cell: i, value };
    });
    if (mode === "similarity") cells[set][best[set].cell].classList.add("best");
  }
  find(".legend").classList.toggle("off", mode === "pca");
  readout.textContent = words(best);
  find(".counter").textContent = `${step + 1}/${data.steps}`;
  slider.value = step + 1;
  slider.setAttribute("aria-valuetext", `step ${step + 1} of ${data.steps}`);
  root.dataset.step = step + 1;
  root.dataset.mode = mode;
  strip.querySelectorAll("button").forEach((button, i) => button.setAttribute("aria-current", String(i === step)));
}

function words(best) {
  const whole = `Whole picture, plan against result: ${number(data.globals[step])}.`;
  if (mode === "outcome") {
    const mean = cells[PLAN].reduce((sum, _, i) => sum + cosine(PLAN, i, RESULT, i), 0) / CELLS;
    return `Left: source against plan. Middle and right: plan against result, ${number(mean)} on average. ${whole}`;
  }
  if (mode === "similarity" && picked) {
    const list = best.map(({ cell, value }, set) => `${NAMES[set]} ${place(cell)} (${number(value)})`).join("; ");
    return `Token of the ${NAMES[picked.set]} at ${place(picked.cell)}. Most alike: ${list}.`;
  }
  return `Colours are the tokens’ three main directions. ${whole}`;
}

function buildModes() {
  const list = [["pca", "Colours"], ["similarity", "Similarity to a token"], ["outcome", "Plan against result"]];
  modes.replaceChildren(modes.querySelector("legend"), ...list.map(([key, label]) => {
    const line = document.createElement("label"), input = document.createElement("input");
    Object.assign(input, { type: "radio", name: group, value: key });
    input.addEventListener("change", () => setMode(key));
    line.append(input, document.createTextNode(label));
    return line;
  }));
}

function buildStrip() {
  strip.replaceChildren(...Array.from({ length: data.steps }, (_, i) => {
    const button = document.createElement("button"), canvas = document.createElement("canvas");
    canvas.width = canvas.height = SIDE;
    const pen = canvas.getContext("2d"), image = pen.createImageData(SIDE, SIDE);
    for (let cell = 0; cell < CELLS; cell++) {
      image.data.set(colours.subarray(((2 + i) * CELLS + cell) * 3, ((2 + i) * CELLS + cell) * 3 + 3), cell * 4);
      image.data[cell * 4 + 3] = 255;
    }
    pen.putImageData(image, 0, 0);
    button.type = "button";
    button.setAttribute("aria-label", `Step ${i + 1}`);
    button.append(canvas, String(i + 1));
    button.addEventListener("click", () => { step = i; paint(); });
    return button;
  }));
}

function show(value) {
  data = value && value.steps ? value : null;
  find(".empty").textContent = (value && value.message) || props.empty || "";
  find(".empty").hidden = !!data;
  find(".shown").hidden = !data;
  if (!data) return;
  colours = bytes(data.colours);
  cosines = bytes(data.cosines);
  step = data.steps - 1;
  picked = null;
  mode = "pca";
  slider.max = data.steps;
  figures.style.setProperty("--aspect", data.aspect);
  strip.style.setProperty("--aspect", data.aspect);
  find(".note").textContent = data.note;
  figures.replaceChildren(...[SOURCE, PLAN, RESULT].map(buildGrid));
  buildModes();
  buildStrip();
  setMode("pca");
}

slider.addEventListener("input", () => { step = Number(slider.value) - 1; paint(); });
watch("value", () => show(props.value));
show(props.value);
