// The view of a repair. gradio gives `element`, `props` and `watch`; the markup is in view.html.
// All pictures are sheets: every frame of a row of the timeline in one image, so that no two rows can drift apart.
const find = (name) => element.querySelector(name);
const root = find(".repair"), shownPart = find(".shown"), panels = find(".panels"), rows = find(".rows");
const slider = find(".frame"), timeline = find(".timeline"), playhead = find(".playhead"), play = find(".play");
const heat = find(".heat"), arrows = find(".arrows"), clock = find(".clock"), list = find(".list");
const SVG = "http://www.w3.org/2000/svg", ORIGINAL = 0, SEEN = 1, REPAIRED = 2;
const ROWS = [["original", "Original"], ["seen", "Sees"], ["repaired", "Repaired"], ["error", "Error"]];
const TINTS = ["#e69f00", "#56b4e9", "#00a878", "#f0e442", "#4a7dff", "#ff5d8f", "#c58bff", "#b5b5b5"];
const orange = "#e8590c";

let data = null, frame = 0, images = {}, forming = null, timer = 0, picked = null, half = null;

const make = (name, values = {}, ...children) => {
  const { className, dataset, ...rest } = values, node = document.createElement(name);
  if (className) node.className = className;
  Object.assign(node, rest);
  node.append(...children);
  return node;
};
const draw = (name, values) => {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(values)) node.setAttribute(key, value);
  return node;
};
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
const finished = () => !!(data && data.sheets.repaired);

// --- Pictures --------------------------------------------------------------------------------------------------------

function load(url, then) {
  const image = new Image();
  image.onload = then;
  image.src = url;
  return image;
}

// Where a frame lies in a sheet: [image, x, y, width, height], or null while it is not there.
function place(name, index) {
  const { width, height, columns } = data;
  if (name === "repaired" && !finished() && forming && forming.naturalWidth) {
    const tall = forming.naturalHeight / Math.ceil((data.count + 3) / 4); // the first frame, then one for every four
    return [forming, 0, Math.ceil(index / 4) * tall, forming.naturalWidth, tall];
  }
  const image = images[name];
  if (!image || !image.complete || !image.naturalWidth) return null;
  return [image, (index % columns) * width, Math.floor(index / columns) * height, width, height];
}

// A frame, cut to fill a box. Returns whether there was one.
function paint(pen, name, index, x, y, w, h) {
  const found = place(name, index);
  if (!found) return false;
  const [image, left, top, wide, high] = found, scale = Math.max(w / wide, h / high);
  const cutW = w / scale, cutH = h / scale;
  pen.drawImage(image, left + (wide - cutW) / 2, top + (high - cutH) / 2, cutW, cutH, x, y, w, h);
  return true;
}

// --- Panels ----------------------------------------------------------------------------------------------------------

function buildPanels() {
  panels.replaceChildren(...data.panels.map((name, i) => {
    const canvas = make("canvas", { width: data.width, height: data.height });
    canvas.setAttribute("role", "img");
    const screen = make("div", { className: "screen" }, canvas, make("div", { className: "pieces" }),
      make("p", { className: "waiting" }));
    return make("figure", { className: "panel" },
      make("figcaption", {}, make("b", { textContent: name }), make("span", { className: "at" })), screen);
  }));
  panels.style.setProperty("--aspect", data.width / data.height);
}

function drawPanels() {
  [...panels.children].forEach((panel, i) => {
    const canvas = panel.querySelector("canvas"), pen = canvas.getContext("2d");
    const name = i === REPAIRED && heat.checked && finished() ? "error" : ROWS[i][0];
    pen.clearRect(0, 0, canvas.width, canvas.height);
    const there = paint(pen, name, frame, 0, 0, canvas.width, canvas.height);
    const touched = i === SEEN && data.touched[frame] > 0;
    panel.classList.toggle("touched", touched);
    panel.classList.toggle("forming", i === REPAIRED && !finished() && there);
    panel.querySelector(".waiting").textContent = i === REPAIRED && !there && !finished() ? data.progress || data.waiting : "";
    panel.querySelector(".at").textContent = panelWords(i, there);
    canvas.setAttribute("aria-label", `${data.panels[i]}, frame ${frame + 1} of ${data.count}. ${panelWords(i, there)}`);
  });
  drawPieces();
}

function panelWords(i, there) {
  if (i === ORIGINAL) return `frame ${frame + 1}`;
  if (i === SEEN) {
    if (!data.touched[frame]) return "untouched";
    if (data.task === "cube") return "hidden";
    return data.task === "speed" ? `shows frame ${data.sources[frame] + 1}` : `${moved()} pieces moved`;
  }
  if (!finished()) return there ? data.progress || "forming" : "";
  if (heat.checked) return `off by ${data.errors[frame].toFixed(1)} of 255`;
  const likeness = data.likeness[frame];
  return likeness === null ? "the same" : `likeness ${likeness.toFixed(1)} dB`;
}

// --- Pieces ----------------------------------------------------------------------------------------------------------

const inTime = (box, index) => index >= box[0] && index < box[0] + box[1];
const here = (key) => data.pieces.filter((piece) => inTime(piece[key], frame));
const still = (piece) => piece.origin.every((value, i) => value === piece.shown[i]);
const moved = () => here("shown").filter((piece) => !still(piece)).length;

function outline(box, piece, node) {
  const [, , top, height, left, width] = box;
  Object.assign(node.style, { left: `${(100 * left) / data.width}%`, top: `${(100 * top) / data.height}%`,
    width: `${(100 * width) / data.width}%`, height: `${(100 * height) / data.height}%` });
  node.style.setProperty("--tint", TINTS[(piece.number - 1) % TINTS.length]);
  node.classList.toggle("still", still(piece));
  node.append(make("i", { textContent: piece.number }));
  return node;
}

function drawPieces() {
  const now = data.pieces.length ? here("shown").map((piece) => piece.number).join() : "none";
  if (half === now) return;
  half = now;
  const [from, to] = [panels.children[ORIGINAL], panels.children[SEEN]].map((panel) => panel.querySelector(".pieces"));
  from.replaceChildren(...here("origin").map((piece) => outline(piece.origin, piece, make("span"))));
  to.replaceChildren(...here("shown").map((piece) => pickable(outline(piece.shown, piece, make("button", { type: "button" })), piece)));
  point(picked);
}

function pickable(node, piece) {
  node.setAttribute("aria-label", piece.words);
  for (const name of ["pointerenter", "focus", "click"]) node.addEventListener(name, () => point(piece));
  for (const name of ["pointerleave", "blur"]) node.addEventListener(name, () => point(null));
  return node;
}

function buildList() {
  list.hidden = !data.pieces.length;
  list.replaceChildren(make("span", { textContent: "Pieces" }), ...data.pieces.map((piece) => {
    const node = pickable(make("button", { type: "button", textContent: piece.number }), piece);
    node.style.setProperty("--tint", TINTS[(piece.number - 1) % TINTS.length]);
    node.classList.toggle("still", still(piece));
    node.addEventListener("click", () => seek(piece.shown[0] + Math.floor(piece.shown[1] / 2)));
    return node;
  }), make("output", { className: "pointed" }));
}

// Arrows from where a piece came from to where it is shown: over the panels, and over the timeline.
function point(piece) {
  picked = piece;
  arrows.replaceChildren();
  for (const node of element.querySelectorAll("[data-piece]")) node.classList.toggle("on", false);
  const told = list.querySelector(".pointed");
  if (told) told.textContent = piece ? piece.words : "";
  root.dataset.piece = piece ? piece.number : "";
  if (!piece || still(piece)) return;
  const base = shownPart.getBoundingClientRect(), tint = TINTS[(piece.number - 1) % TINTS.length];
  const onPanel = (index, box) => {
    const area = panels.children[index].querySelector(".screen").getBoundingClientRect();
    const [, , top, height, left, width] = box;
    return [area.left + ((left + width / 2) / data.width) * area.width, area.top + ((top + height / 2) / data.height) * area.height];
  };
  const onRow = (index, box) => {
    const area = rows.children[index].querySelector("canvas").getBoundingClientRect();
    return [area.left + ((box[0] + box[1] / 2) / data.count) * area.width, area.top + area.height / 2];
  };
  const now = inTime(piece.origin, frame) && inTime(piece.shown, frame);
  arrow(onPanel(ORIGINAL, piece.origin), onPanel(SEEN, piece.shown), base, tint, !now);
  arrow(onRow(ORIGINAL, piece.origin), onRow(SEEN, piece.shown), base, tint, false);
}

function arrow([x1, y1], [x2, y2], base, tint, dashed) {
  const points = [x1 - base.left, y1 - base.top, x2 - base.left, y2 - base.top].map(Math.round);
  const angle = Math.atan2(points[3] - points[1], points[2] - points[0]), size = 13;
  const line = `M${points[0]} ${points[1]} L${points[2]} ${points[3]}`;
  const head = [-0.45, 0.45].map((turn) =>
    `M${points[2]} ${points[3]} l${-size * Math.cos(angle + turn)} ${-size * Math.sin(angle + turn)}`).join(" ");
  for (const [colour, width] of [["#000", 7], [tint, 3.5]]) {
    arrows.append(draw("path", { d: line, stroke: colour, "stroke-width": width, "stroke-dasharray": dashed ? "9 7" : "none" }),
      draw("path", { d: head, stroke: colour, "stroke-width": width }));
  }
  arrows.append(draw("circle", { cx: points[0], cy: points[1], r: 5, fill: tint, stroke: "#000" }));
}

// --- Timeline --------------------------------------------------------------------------------------------------------

function buildTimeline() {
  timeline.style.setProperty("--count", data.count);
  find(".heads").replaceChildren(...data.touched.map((share, i) => {
    const head = make("span", { textContent: i + 1 });
    head.classList.toggle("touched", share > 0);
    return head;
  }));
  rows.replaceChildren(...ROWS.map(([key, label]) => {
    const canvas = make("canvas", { className: key });
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", rowWords(key));
    return make("div", { className: "row" }, make("span", { textContent: label }), canvas);
  }));
  slider.max = data.count - 1;
}

function rowWords(key) {
  const touched = data.touched.flatMap((share, i) => (share ? [i + 1] : []));
  if (key === "seen") return `What the model sees, ${data.count} frames; touched: ${touched.join(", ") || "none"}`;
  if (key === "error" && data.errors.length) return "Difference of the repair from the original by frame, of 255: " +
    data.errors.map((value) => value.toFixed(1)).join(", ");
  return `${key === "original" ? "Original" : "Repaired"}, ${data.count} frames`;
}

function drawRows() {
  const scale = window.devicePixelRatio || 1;
  for (const row of rows.children) {
    const canvas = row.querySelector("canvas"), key = canvas.className, box = canvas.getBoundingClientRect();
    if (!box.width) continue;
    timeline.style.setProperty("--col", `${box.width / data.count}px`);
    const [w, h] = [Math.round(box.width * scale), Math.round(box.height * scale)];
    if (canvas.width !== w || canvas.height !== h) { canvas.width = w; canvas.height = h; }
    const pen = canvas.getContext("2d"), cell = w / data.count, gap = scale;
    pen.clearRect(0, 0, w, h);
    for (let i = 0; i < data.count; i++) {
      const x = i * cell + gap, wide = cell - 2 * gap, mark = key === "seen" && data.touched[i] > 0;
      const high = key === "seen" ? h - 5 * scale : h;
      if (!paint(pen, key, i, x, 0, wide, high)) {
        pen.fillStyle = "rgb(128 128 128 / 0.18)";
        pen.fillRect(x, 0, wide, high);
      }
      if (mark) { pen.fillStyle = orange; pen.fillRect(x, h - 4 * scale, wide, 4 * scale); }
      if (key === "seen" && data.task === "speed") tag(pen, data.sources[i] + 1, x, wide, high, scale, mark);
      if (key === "error" && data.errors.length) bar(pen, i, x, wide, high, scale);
      if (data.pieces.length && (key === "original" || key === "seen")) quarters(pen, key, i, x, wide, high, scale);
    }
  }
}

function tag(pen, number, x, wide, high, scale, mark) {
  pen.font = `600 ${11 * scale}px system-ui, sans-serif`;
  const width = Math.min(wide, pen.measureText(number).width + 6 * scale);
  pen.fillStyle = "rgb(0 0 0 / 0.75)";
  pen.fillRect(x + (wide - width) / 2, high - 15 * scale, width, 15 * scale);
  pen.fillStyle = mark ? "#ffb37f" : "#fff";
  pen.textAlign = "center";
  pen.fillText(number, x + wide / 2, high - 4 * scale, wide);
}

function bar(pen, index, x, wide, high, scale) {
  const tall = Math.max(scale, high * Math.min(1, data.errors[index] / data.range));
  pen.fillStyle = "rgb(0 0 0 / 0.6)";
  pen.fillRect(x, high - tall - scale, wide, tall + scale);
  pen.fillStyle = orange;
  pen.fillRect(x, high - tall, wide, tall);
}

function quarters(pen, key, index, x, wide, high, scale) {
  const at = key === "original" ? "origin" : "shown";
  for (const piece of data.pieces) {
    if (!inTime(piece[at], index) || still(piece)) continue;
    const [, , top, height, left, width] = piece[at];
    pen.strokeStyle = TINTS[(piece.number - 1) % TINTS.length];
    pen.lineWidth = 2 * scale;
    pen.strokeRect(x + (left / data.width) * wide + scale, (top / data.height) * high + scale,
      (width / data.width) * wide - 2 * scale, (height / data.height) * high - 2 * scale);
  }
}

// Which frame of the original is shown at each moment: a straight line for the original, a zig-zag for what is sped up.
function buildClock() {
  clock.hidden = data.task !== "speed";
  if (clock.hidden) return;
  const svg = clock.querySelector("svg"), n = data.count, at = (i) => i + 0.5, up = (v) => n - v - 0.5;
  svg.setAttribute("viewBox", `0 0 ${n} ${n}`);
  const path = (values, name) => {
    let pen = "M";
    const d = values.map((value, i) => {
      if (value === null || value === undefined) { pen = "M"; return ""; }
      const part = `${pen}${at(i)} ${up(value)}`;
      pen = "L";
      return part;
    }).join(" ");
    return draw("path", { d, class: name, "vector-effect": "non-scaling-stroke" });
  };
  const dots = (values) => draw("path", { class: "readback", "vector-effect": "non-scaling-stroke",
    d: values.map((value, i) => (value === null ? "" : `M${at(i)} ${up(value)}h0`)).join(" ") });
  const read = data.read.map((value) => (value === null || value === undefined ? null : value - 1));
  svg.replaceChildren(path(data.sources.map((_, i) => i), "straight"), path(data.sources, "zigzag"),
    ...(read.length ? [dots(read)] : []), draw("line", { class: "cursor", y1: 0, y2: n, "vector-effect": "non-scaling-stroke" }));
  const caption = clock.querySelector("figcaption");
  caption.replaceChildren("Which original frame is shown at each moment: ",
    make("span", { className: "key straight", textContent: "original" }),
    make("span", { className: "key zigzag", textContent: "what the model sees" }),
    ...(read.length ? [make("span", { className: "key readback", textContent: "repaired, read back from the frames" })] : []));
  svg.setAttribute("aria-label", `The model sees the original's frames ${data.sources.map((v) => v + 1).join(", ")}` +
    (read.length ? `; the repair shows ${read.map((v) => (v === null ? "unclear" : v + 1)).join(", ")}` : ""));
}

// --- Words -----------------------------------------------------------------------------------------------------------

function tell() {
  find(".damage").textContent = data.damage;
  find(".result").textContent = data.result;
  find(".more").replaceChildren(...data.more.map((line) => make("span", { textContent: line + " " })));
  find(".task").textContent = data.task_words;
  find(".numbers table").hidden = !data.psnr;
  const legend = find(".legend");
  legend.setAttribute("aria-label", `Scale of errors: grey is no difference, full orange is ${data.range} of 255 or more`);
  legend.querySelector(".most").textContent = `${data.range}+`;
  legend.querySelector("em").textContent = "of 255";
  if (!data.psnr) return;
  const value = (name) => (data.psnr[name] === null ? "–" : data.psnr[name].toFixed(1));
  const clips = [["given", "what the model sees"], ["restored", "repaired"], ["autoencoder", "autoencoder alone"]];
  find(".numbers thead").replaceChildren(make("tr", {}, make("td"), ...clips.map(([, word]) => make("th", { scope: "col", textContent: word }))));
  find(".numbers tbody").replaceChildren(...[["hidden", "damaged part"], ["outside", "the rest"], ["overall", "whole clip"]]
    .map(([key, word]) => make("tr", {}, make("th", { scope: "row", textContent: word }),
      ...clips.map(([clip]) => make("td", { textContent: value(`${clip}_${key}`) })))));
}

// --- The playhead ----------------------------------------------------------------------------------------------------

function seen(index) {
  frame = clamp(index, 0, data.count - 1);
  slider.value = frame;
  slider.setAttribute("aria-valuetext", `frame ${frame + 1} of ${data.count}${data.touched[frame] ? ", touched" : ""}`);
  find(".counter").textContent = `Frame ${frame + 1}/${data.count}`;
  timeline.style.setProperty("--at", frame);
  const cursor = clock.querySelector(".cursor");
  if (cursor) for (const name of ["x1", "x2"]) cursor.setAttribute(name, frame + 0.5);
  root.dataset.frame = frame;
  drawPanels();
}

function seek(index) { pause(); seen(index); }
function pause() {
  window.clearInterval(timer);
  timer = 0;
  play.textContent = "Play";
  root.dataset.playing = false;
}
function toggle() {
  if (timer) return pause();
  play.textContent = "Pause";
  root.dataset.playing = true;
  timer = window.setInterval(() => {
    if (!data || !element.isConnected || document.hidden) return pause();
    seen((frame + 1) % data.count);
  }, 1000 / data.fps);
}

function all() {
  if (!data) return;
  drawRows();
  seen(frame);
}

// The button that was pressed is gone when a repair begins or ends: whoever uses the keyboard stays at the other one.
function keepFocus(before, now) {
  if (document.activeElement !== document.body) return;
  const name = now === "repairing" && before !== now ? "#repair-stop" : before === "repairing" && before !== now ? "#repair-go" : "";
  if (name) window.setTimeout(() => document.querySelector(`button${name}, ${name} button`)?.focus({ preventScroll: true }), 100);
}

function show(value) {
  const next = value && value.sheets ? value : null, before = data;
  data = next;
  find(".empty").textContent = props.empty || "";
  find(".empty").hidden = !!data;
  shownPart.hidden = !data;
  if (!data) { pause(); delete root.dataset.frame; return; }
  const same = before && before.sheets.seen.url === data.sheets.seen.url && before.count === data.count;
  for (const [name] of ROWS) {
    const file = data.sheets[name];
    if (!file) delete images[name];
    else if (!images[name] || images[name].dataset.url !== file.url) {
      images[name] = load(file.url, all);
      images[name].dataset.url = file.url;
    }
  }
  if (!data.progress) forming = null; // at work, the last picture stays until there is a better one
  else if (data.forming) { const coming = load(data.forming, () => { forming = coming; all(); }); }
  const stood = root.dataset.state;
  root.dataset.state = finished() ? "repaired" : data.progress ? "repairing" : "broken";
  root.dataset.task = data.task;
  keepFocus(stood, root.dataset.state);
  heat.disabled = !finished();
  find(".switch").classList.toggle("off", !finished());
  half = null;
  if (!same) { pause(); picked = null; buildPanels(); buildTimeline(); buildList(); frame = data.opens; }
  else for (const canvas of rows.querySelectorAll("canvas")) canvas.setAttribute("aria-label", rowWords(canvas.className));
  buildClock();
  tell();
  all();
}

play.addEventListener("click", toggle);
heat.addEventListener("change", drawPanels);
slider.addEventListener("input", () => seek(Number(slider.value)));
const scrub = (event) => {
  const box = rows.querySelector("canvas").getBoundingClientRect();
  seek(Math.floor(((event.clientX - box.left) / box.width) * data.count));
};
rows.addEventListener("pointerdown", (event) => {
  if (!data || event.button !== 0) return;
  rows.setPointerCapture(event.pointerId);
  scrub(event);
});
rows.addEventListener("pointermove", (event) => { if (data && rows.hasPointerCapture(event.pointerId)) scrub(event); });
root.addEventListener("keydown", (event) => {
  if (!data || event.ctrlKey || event.altKey || event.metaKey || event.target.matches("input, summary")) return;
  const onButton = event.target.matches("button");
  const to = { ArrowRight: frame + 1, ArrowLeft: frame - 1, Home: 0, End: data.count - 1 }[event.key];
  if (to !== undefined) seek(to);
  else if (event.key === " " && !onButton) toggle();
  else if (event.key.toLowerCase() === "e" && finished()) { heat.checked = !heat.checked; drawPanels(); }
  else if (event.key === "Escape") point(null);
  else return;
  event.preventDefault();
});
new IntersectionObserver((entries) => { if (!entries.at(-1).isIntersecting && timer) pause(); }).observe(panels);
new ResizeObserver(() => { if (data) { drawRows(); point(null); } }).observe(timeline);

watch("value", () => show(props.value));
show(props.value);
