// The comparison viewer. gradio gives `element`, `props` and `watch`; the markup is in viewer.html.
const find = (name) => element.querySelector(name);
const root = find(".viewer"), canvas = find(".stage > canvas"), video = find("video"), stage = find(".stage");
const divider = find(".divider"), names = find(".names"), play = find(".play"), frame = find(".frame");
const counter = find(".counter"), wipe = find(".wipe"), modes = find(".modes"), sound = find(".sound");
const timeline = find(".timeline"), film = find(".film"), gain = find(".gain"), speed = find(".speed"), hold = find(".hold");
const pen = canvas.getContext("2d");
const calm = window.matchMedia("(prefers-reduced-motion: reduce)");
const group = "view-" + Math.random().toString(36).slice(2); // radio names are global to a page
const MOST_ZOOM = 8, HEAT_PIXELS = 300_000, HOT = [255, 106, 19];
const PLAY = "M4 2l10 6-10 6z", PAUSE = "M3 2h4v12H3zM9 2h4v12H9z";

let data = null, mode = "wipe", held = false, current = 0, swapped = false;
let view = { z: 1, x: 0, y: 0 }; // magnification, and the corner of what is seen, in parts of a panel
let loop = [0, 0]; // the frames that are played over and over, the last one included
let wanted = !calm.matches; // whether the visitor wants it to play; leaving the screen does not change that

// A frame starts at index / fps, or at a time of its own where the rate is variable; the small term covers times that
// were rounded down on their way here.
const frameAt = (time) => {
  const late = data.times.findIndex((start) => start > time + 0.02 / data.fps);
  const index = data.times.length ? (late < 0 ? data.frames : late) - 1 : Math.floor(time * data.fps + 0.02);
  return Math.min(data.frames - 1, Math.max(0, index));
};
const startOf = (index) => (data.times.length ? data.times[index] : index / data.fps);
// The middle of a frame is never the neighbour's.
const middleOf = (index) => {
  if (!data.times.length) return (index + 0.5) / data.fps;
  const start = data.times[index];
  return index + 1 < data.frames ? (start + data.times[index + 1]) / 2 : start + 0.25 / data.fps;
};
const shown = () => (held ? "panel-" + data.compare[0] : mode);
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
const say = (words) => { find(".told").textContent = words; };

function show(value) {
  const next = value && value.video ? value : null;
  const same = next && data && next.video.url === data.video.url;
  data = next;
  find(".empty").textContent = props.empty || "";
  find(".empty").hidden = !!data;
  find(".shown").hidden = !data;
  if (!data) { video.removeAttribute("src"); delete root.dataset.frame; return; }
  find(".caption").textContent = data.caption;
  find(".caption").hidden = !data.caption;
  find(".problem").textContent = "";
  frame.max = data.frames - 1;
  sound.hidden = !data.sound;
  find(".swap").hidden = hold.hidden = data.panels.length < 2;
  hold.textContent = `Hold: ${data.panels[data.compare[0]].toLowerCase()}`;
  if (same) return buildModes();
  video.muted = true;
  mute();
  wanted = !calm.matches;
  wipe.value = 50; // where the last clip's divider was says nothing about this one
  view = { z: 1, x: 0, y: 0 };
  swapped = false;
  setLoop(0, data.frames - 1);
  clearFilm();
  stage.style.backgroundImage = data.poster ? `url("${data.poster.url}")` : "none";
  pen.clearRect(0, 0, canvas.width, canvas.height);
  video.src = data.video.url;
  video.defaultPlaybackRate = video.playbackRate = Number(speed.value);
  buildModes(); // not before: it would draw the last video as if it had this one's panels
  seen(0);
}

function buildModes() {
  const [a, b] = data.compare.map((i) => data.panels[i]);
  const single = data.panels.map((name, i) => ["panel-" + i, name]);
  const list = data.panels.length === 1 ? single : [["wipe", "Wipe"],
    ["side", data.panels.length > 2 ? "All" : "Side| by side"], ...single, ["difference", "Difference"]];
  if (!list.some(([key]) => key === mode)) mode = data.mode || "wipe";
  if (root.dataset.panels !== data.panels.join("|")) mode = data.mode || "wipe";
  if (root.dataset.panels === data.panels.join("|")) return setMode(mode); // keep what somebody may be clicking on
  root.dataset.panels = data.panels.join("|");
  modes.replaceChildren(modes.querySelector("legend"), ...list.map(([key, label], i) => {
    const line = document.createElement("label"), input = document.createElement("input");
    const [short, rest] = label.split("|");
    Object.assign(input, { type: "radio", name: group, value: key, checked: key === mode });
    input.addEventListener("change", () => setMode(key));
    line.append(input, document.createTextNode(short));
    if (rest) line.append(Object.assign(document.createElement("span"), { className: "long", textContent: rest }));
    line.title = key === "difference" ? `${a} against ${b}: what changed` : `Key ${i + 1}`;
    return line;
  }));
  setMode(mode);
}

function setMode(key) {
  mode = key;
  for (const input of modes.querySelectorAll("input")) input.checked = input.value === key;
  draw();
}

function panelsOf(now) {
  const turn = (list) => (swapped ? [...list].reverse() : list);
  if (now === "side") return data.panels.length === 2 ? turn([0, 1]) : data.panels.map((_, i) => i);
  if (now.startsWith("panel-")) return [Number(now.slice(6))];
  return turn(data.compare);
}

// Columns and rows of the panels on the stage. Narrow screens stack wide panels; tall ones stay side by side.
function gridOf(now) {
  if (now !== "side") return [1, 1];
  const count = data.panels.length, wide = video.videoWidth / count > video.videoHeight;
  const columns = wide && stage.clientWidth < 220 * count ? 1 : count;
  return [columns, Math.ceil(count / columns)];
}

// The time of the frame that the video shows at this moment, in seconds; null in browsers that lack VideoFrame. Drawing
// from a VideoFrame itself is exact, too, but takes ten times as long where there is no GPU.
function stamp() {
  try {
    const still = new VideoFrame(video), time = still.timestamp / 1e6;
    still.close();
    return time;
  } catch { return null; }
}

// Draws what is shown now, and says which frame that is. The video may go on to its next frame at any moment, between two
// panels, too: then all are drawn again.
function draw() {
  if (!data || video.readyState < 2) return;
  const indexOf = (time) => (time === null ? current : frameAt(time));
  let time = stamp();
  const index = indexOf(time);
  if (!video.paused && !video.seeking && (index < loop[0] || index > loop[1])) return; // on its way back
  for (let tries = 0; tries < 3; tries++) {
    paint();
    const after = stamp();
    if (after === time) break;
    time = after;
  }
  paintFilm(indexOf(time));
  if (!video.paused && !video.seeking && indexOf(time) !== current) seen(indexOf(time));
}

function paint() {
  const now = shown(), width = video.videoWidth / data.panels.length, height = video.videoHeight;
  const list = panelsOf(now), [columns, rows] = gridOf(now);
  const w = width * columns, h = height * rows;
  if (canvas.width !== w || canvas.height !== h) { canvas.width = w; canvas.height = h; }
  stage.style.setProperty("--aspect", w / h);
  pen.imageSmoothingEnabled = view.z < 4; // beyond that one looks at pixels
  const part = (i, x, y, from = 0, to = 1, on = pen, size = [width, height]) => on.drawImage(video,
    (i + view.x + from / view.z) * width, view.y * height, ((to - from) / view.z) * width, height / view.z,
    x + from * size[0], y, (to - from) * size[0], size[1]);
  if (now === "side") list.forEach((panel, i) => part(panel, (i % columns) * width, Math.floor(i / columns) * height));
  else if (now === "wipe") { part(list[0], 0, 0); const s = wipe.value / 100; if (s < 1) part(list[1], 0, 0, s, 1); }
  else if (now === "difference") difference(part, list, w, h);
  else part(list[0], 0, 0);
  label(now, list, columns);
}

// What changed, in one colour: the larger the difference of a pixel's most different channel, the more orange it is on
// the grey original. It is computed on at most HEAT_PIXELS pixels of what is seen.
const heat = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
function difference(part, [a, b], w, h) {
  const scale = Math.min(1, Math.sqrt(HEAT_PIXELS / (w * h))), size = [Math.round(w * scale), Math.round(h * scale)];
  if (heat.canvas.width !== size[0] || heat.canvas.height !== size[1]) [heat.canvas.width, heat.canvas.height] = size;
  const pixels = (panel) => { part(panel, 0, 0, 0, 1, heat, size); return heat.getImageData(0, 0, ...size); };
  const base = pixels(data.compare[0]), one = base.data, two = pixels(data.compare[0] === a ? b : a).data;
  const times = Number(gain.value);
  for (let i = 0; i < one.length; i += 4) {
    const most = Math.max(Math.abs(one[i] - two[i]), Math.abs(one[i + 1] - two[i + 1]), Math.abs(one[i + 2] - two[i + 2]));
    const share = Math.min(255, most * times) / 255;
    const grey = (one[i] * 54 + one[i + 1] * 183 + one[i + 2] * 19) >> 9; // half as bright as it was
    one[i] = grey + (HOT[0] - grey) * share;
    one[i + 1] = grey + (HOT[1] - grey) * share;
    one[i + 2] = grey + (HOT[2] - grey) * share;
  }
  heat.putImageData(base, 0, 0);
  pen.drawImage(heat.canvas, 0, 0, w, h);
}

function label(now, list, columns) {
  const text = now === "difference" ? [`Difference × ${gain.value}`] : list.map((i) => data.panels[i]);
  const key = [now, columns, ...text].join("|");
  divider.hidden = now !== "wipe";
  wipe.disabled = mode !== "wipe";
  stage.style.setProperty("--wipe", wipe.value + "%");
  stage.classList.toggle("zoomed", view.z > 1);
  find(".legend").hidden = now !== "difference";
  find(".most").textContent = `${gain.value > 1 ? "≥ " : ""}${Math.ceil(255 / gain.value)} of 255`;
  find(".looking").textContent = view.z > 1 ? `${view.z.toFixed(1)}×` : "";
  find(".zoom span").textContent = `${Number(view.z.toFixed(1))}×`;
  find(".zoom").setAttribute("aria-label", `Zoom, now ${Number(view.z.toFixed(1))}×`);
  root.dataset.zoom = view.z;
  const [a, b] = panelsOf("wipe").map((i) => data.panels[i].toLowerCase());
  wipe.setAttribute("aria-valuetext", `${wipe.value}% ${a}, ${100 - wipe.value}% ${b}`);
  if (names.dataset.key === key) return;
  names.dataset.key = key;
  names.className = "names " + (now === "side" ? (columns > 1 ? "columns" : "rows") : now === "wipe" ? "wipe-names" : now);
  names.replaceChildren(...text.map((word) => Object.assign(document.createElement("li"), { textContent: word })));
  canvas.setAttribute("aria-label", text.join(now === "wipe" ? " left of the divider, right of it " : " beside "));
}

function seen(index) {
  current = index;
  frame.value = index;
  const time = startOf(index).toFixed(1);
  frame.setAttribute("aria-valuetext", `frame ${index + 1} of ${data.frames}, ${time} seconds`);
  counter.textContent = `${time} s · ${index + 1}/${data.frames}`;
  root.dataset.frame = index;
}

function seek(index) {
  video.pause();
  wanted = false;
  const target = clamp(index, 0, data.frames - 1);
  seen(target);
  video.currentTime = middleOf(target);
}

const start = () => video.play().catch(() => {});
function toggle() {
  wanted = video.paused;
  if (wanted) start(); else video.pause();
}
function state() {
  play.querySelector("span").textContent = video.paused ? "Play" : "Pause";
  play.querySelector("path").setAttribute("d", video.paused ? PLAY : PAUSE);
  root.dataset.playing = !video.paused;
}
function mute() {
  sound.title = video.muted ? "Sound on" : "Sound off"; // what a press does
  sound.setAttribute("aria-label", sound.title);
  sound.classList.toggle("muted", video.muted);
}
function setWipe(value) { wipe.value = clamp(value, 0, 100); draw(); }
function swap() { swapped = !swapped; draw(); }
function setHeld(value) {
  if (held === value || !data) return;
  held = value;
  hold.classList.toggle("down", held);
  draw();
}

function tick(_, meta) {
  if (!element.isConnected) { video.pause(); return; }
  if (data && !video.seeking) {
    const index = frameAt(meta.mediaTime), inside = index >= loop[0] && index <= loop[1];
    if (!video.paused && inside) seen(index);
    draw();
    if (!video.paused && (!inside || index === loop[1]) && loop[1] - loop[0] < data.frames - 1) turnBack(inside);
  }
  video.requestVideoFrameCallback(tick);
}
// The last frame of the loop stays for its time; then the first one comes.
let turning = 0;
function turnBack(inside) {
  clearTimeout(turning);
  const stay = inside ? (1000 / data.fps / video.playbackRate) * 0.8 : 0;
  turning = setTimeout(() => { if (data && !video.paused) video.currentTime = middleOf(loop[0]); }, stay);
}

// The part that is played over and over

function setLoop(first, last) {
  loop = [clamp(first, 0, data.frames - 1), clamp(last, 0, data.frames - 1)];
  timeline.style.setProperty("--from", `${(100 * loop[0]) / data.frames}%`);
  timeline.style.setProperty("--to", `${(100 * (loop[1] + 1)) / data.frames}%`);
  root.dataset.loop = loop.join(" ");
}
function tellLoop() {
  const all = loop[0] === 0 && loop[1] === data.frames - 1;
  say(all ? "The whole clip repeats." : `Frames ${loop[0] + 1} to ${loop[1] + 1} repeat.`);
}
for (const [name, side] of [["a", 0], ["b", 1]]) {
  const mark = find(`.mark.${name}`);
  mark.addEventListener("pointerdown", (event) => { mark.setPointerCapture(event.pointerId); event.preventDefault(); });
  mark.addEventListener("pointermove", (event) => {
    if (!mark.hasPointerCapture(event.pointerId)) return;
    const box = timeline.getBoundingClientRect(), at = Math.round(((event.clientX - box.left) / box.width) * data.frames);
    if (side) setLoop(loop[0], Math.max(loop[0], at - 1)); else setLoop(Math.min(at, loop[1]), loop[1]);
  });
  mark.addEventListener("pointerup", tellLoop);
}

// The timeline's pictures are taken from the frames that go by

let cells = [];
function clearFilm() {
  const box = timeline.getBoundingClientRect(), ratio = window.devicePixelRatio || 1;
  film.width = Math.round(box.width * ratio) || 1;
  film.height = Math.round(box.height * ratio) || 1;
  cells = [];
}
// What was taken already is stretched until the same frames go by again.
function resizeFilm() {
  const old = document.createElement("canvas");
  [old.width, old.height] = [film.width, film.height];
  old.getContext("2d").drawImage(film, 0, 0);
  clearFilm();
  film.getContext("2d").drawImage(old, 0, 0, film.width, film.height);
}
function paintFilm(index) {
  const width = video.videoWidth / data.panels.length, height = video.videoHeight;
  const count = Math.min(data.frames, Math.max(1, Math.round(film.width / ((width / height) * film.height))));
  const cell = Math.floor((index * count) / data.frames);
  if (cells[cell]) return;
  cells[cell] = true;
  const wide = film.width / count, scale = Math.max(wide / width, film.height / height);
  const w = wide / scale, h = film.height / scale;
  film.getContext("2d").drawImage(video, data.compare[1] * width + (width - w) / 2, (height - h) / 2, w, h,
    cell * wide, 0, wide, film.height);
}

// Zoom and pan: all panels look at the same place

// A place on the screen, in parts of the panel that it is over.
function placeOf(x, y) {
  const box = stage.getBoundingClientRect(), [columns, rows] = gridOf(shown());
  const across = clamp((x - box.left) / box.width, 0, 0.9999) * columns, down = clamp((y - box.top) / box.height, 0, 0.9999) * rows;
  return [across % 1, down % 1];
}
function look(z, x, y) {
  z = clamp(z, 1, MOST_ZOOM);
  if (z < 1.02) z = 1;
  view = { z, x: clamp(x, 0, 1 - 1 / z), y: clamp(y, 0, 1 - 1 / z) };
  draw();
}
function zoomAt([px, py], factor) {
  const z = clamp(view.z * factor, 1, MOST_ZOOM);
  look(z, view.x + px / view.z - px / z, view.y + py / view.z - py / z);
}
function pan(dx, dy) {
  const box = stage.getBoundingClientRect(), [columns, rows] = gridOf(shown());
  look(view.z, view.x - (dx * columns) / box.width / view.z, view.y - (dy * rows) / box.height / view.z);
}
const filled = () => document.fullscreenElement === root || root.classList.contains("filled");
stage.addEventListener("wheel", (event) => {
  // The wheel alone scrolls the page, as everywhere, until there is a reason to think that the picture is meant.
  if (!data || !(event.ctrlKey || event.metaKey || view.z > 1 || filled())) return;
  event.preventDefault();
  zoomAt(placeOf(event.clientX, event.clientY), Math.exp(-clamp(event.deltaY, -120, 120) * (event.deltaMode ? 0.06 : 0.003)));
}, { passive: false });

// Fingers and the mouse on the picture: near the line they drag it; two fingers zoom; else a click plays or pauses, and
// a drag moves what is zoomed.

const fingers = new Map();
let grip = null;
const nearLine = (event) => {
  if (!data || mode !== "wipe" || held) return false;
  const box = stage.getBoundingClientRect(), line = box.left + (box.width * wipe.value) / 100;
  return Math.abs(event.clientX - line) <= (event.pointerType === "touch" ? 32 : 20);
};
const drag = (event) => {
  const box = stage.getBoundingClientRect();
  setWipe(Math.round((100 * (event.clientX - box.left)) / box.width));
};
const middle = () => {
  const [a, b] = [...fingers.values()];
  return { x: (a.x + b.x) / 2, y: (a.y + b.y) / 2, apart: Math.hypot(a.x - b.x, a.y - b.y) || 1 };
};
stage.addEventListener("pointerdown", (event) => {
  if (!data || event.button !== 0 || event.target === gain) return;
  fingers.set(event.pointerId, { x: event.clientX, y: event.clientY });
  try { stage.setPointerCapture(event.pointerId); } catch {} // the pointer may be gone by now
  if (fingers.size === 2) grip = { kind: "pinch", ...middle() };
  else if (fingers.size === 1) grip = { kind: nearLine(event) ? "line" : "picture", x: event.clientX, y: event.clientY, moved: false };
});
stage.addEventListener("pointermove", (event) => {
  const finger = fingers.get(event.pointerId);
  if (!finger) { stage.classList.toggle("near", nearLine(event)); return; }
  const dx = event.clientX - finger.x, dy = event.clientY - finger.y;
  Object.assign(finger, { x: event.clientX, y: event.clientY });
  if (!grip) return;
  if (grip.kind === "pinch" && fingers.size === 2) {
    const now = middle();
    zoomAt(placeOf(grip.x, grip.y), now.apart / grip.apart);
    pan(now.x - grip.x, now.y - grip.y);
    Object.assign(grip, now);
  } else if (grip.kind === "line") drag(event);
  else if (grip.kind === "picture") {
    grip.moved ||= Math.hypot(event.clientX - grip.x, event.clientY - grip.y) > 6;
    if (grip.moved && view.z > 1) pan(dx, dy);
  }
});
const lift = (event) => {
  if (!fingers.delete(event.pointerId)) return;
  if (event.type === "pointerup" && grip?.kind === "picture" && !grip.moved) toggle();
  grip = null; // also after a pinch: the finger that stays does nothing until it is lifted
};
stage.addEventListener("pointerup", lift);
stage.addEventListener("pointercancel", lift);

hold.addEventListener("pointerdown", (event) => {
  event.preventDefault(); // else the focus moves here, and whoever loses it lets go
  hold.setPointerCapture(event.pointerId);
  setHeld(true);
});
for (const end of ["pointerup", "pointercancel", "blur", "keyup"]) hold.addEventListener(end, () => setHeld(false));
hold.addEventListener("keydown", (event) => { if (event.key === " " || event.key === "Enter") { event.preventDefault(); setHeld(true); } });
hold.addEventListener("contextmenu", (event) => event.preventDefault());

async function fullScreen() {
  if (document.fullscreenElement === root) return document.exitFullscreen();
  if (root.classList.contains("filled")) return fill(false);
  try { await root.requestFullscreen(); } catch { fill(true); } // some phones have it for videos only
}
function fill(on) { root.classList.toggle("filled", on); fullWords(); draw(); }
const fullWords = () => find(".full").setAttribute("aria-label", filled() ? "Leave full screen" : "Full screen");
root.addEventListener("fullscreenchange", () => { fullWords(); draw(); });

function setSpeed(step) {
  speed.selectedIndex = clamp(speed.selectedIndex + step, 0, speed.options.length - 1);
  video.defaultPlaybackRate = video.playbackRate = Number(speed.value);
  if (step) say(`Speed ${speed.selectedOptions[0].textContent}`);
}

video.addEventListener("loadeddata", () => {
  draw();
  video.playbackRate = Number(speed.value);
  if (element.offsetParent !== null && wanted) start(); // muted, and paused where motion is unwelcome
});
video.addEventListener("seeked", draw);
video.addEventListener("play", state);
video.addEventListener("pause", state);
video.addEventListener("error", () => {
  if (data) find(".problem").textContent = "This browser cannot play the video. Download it instead.";
});
play.addEventListener("click", toggle);
sound.addEventListener("click", () => { video.muted = !video.muted; mute(); });
find(".swap").addEventListener("click", swap);
find(".zoom").addEventListener("click", () => (view.z >= 4 ? look(1, 0, 0) : zoomAt([0.5, 0.5], view.z >= 2 ? 4 / view.z : 2 / view.z)));
find(".full").addEventListener("click", fullScreen);
speed.addEventListener("change", () => setSpeed(0));
gain.addEventListener("change", draw);
frame.addEventListener("input", () => seek(Number(frame.value)));
frame.addEventListener("keydown", (event) => {
  const jump = { PageUp: 10, PageDown: -10 }[event.key];
  if (jump) { event.preventDefault(); seek(current + jump); }
});
wipe.addEventListener("input", draw);

const KEYS = {
  "[": () => setWipe(Number(wipe.value) - 5), "]": () => setWipe(Number(wipe.value) + 5),
  o: () => setHeld(true), s: swap, f: fullScreen,
  a: () => { setLoop(current, Math.max(current, loop[1])); tellLoop(); },
  b: () => { setLoop(Math.min(current, loop[0]), current); tellLoop(); },
  l: () => { setLoop(0, data.frames - 1); tellLoop(); },
  "<": () => setSpeed(-1), ">": () => setSpeed(1),
  "+": () => zoomAt([0.5, 0.5], 1.5), "=": () => zoomAt([0.5, 0.5], 1.5), "-": () => zoomAt([0.5, 0.5], 1 / 1.5), "0": () => look(1, 0, 0),
};
// Those that a button, a slider or a list uses itself.
const PLAIN = {
  " ": toggle, ArrowRight: () => seek(current + 1), ArrowLeft: () => seek(current - 1),
  Home: () => seek(0), End: () => seek(data.frames - 1),
};
root.addEventListener("keydown", (event) => {
  if (!data || event.ctrlKey || event.altKey || event.metaKey || event.target.matches("select")) return;
  if (event.key === "Escape" && root.classList.contains("filled")) return fill(false);
  const digit = modes.querySelectorAll("input")[Number(event.key) - 1];
  const native = event.target.matches("input, button, summary");
  const act = digit ? () => setMode(digit.value) : KEYS[event.key.toLowerCase()] || (!native && PLAIN[event.key]);
  if (!act || (event.repeat && "osf".includes(event.key.toLowerCase()))) return;
  act();
  event.preventDefault();
});
root.addEventListener("keyup", (event) => { if (event.key.toLowerCase() === "o") setHeld(false); });
root.addEventListener("focusout", () => setHeld(false));

let visible = true;
const settle = () => {
  if (!data) return;
  if (!visible || document.hidden) { if (!video.paused) video.pause(); }
  else if (wanted && video.paused && video.readyState >= 2) start();
};
new IntersectionObserver((entries) => { visible = entries.at(-1).isIntersecting; settle(); }).observe(stage);
document.addEventListener("visibilitychange", settle);
new ResizeObserver(() => draw()).observe(stage);
new ResizeObserver(resizeFilm).observe(timeline);

fullWords();
video.requestVideoFrameCallback(tick);
watch("value", () => show(props.value));
show(props.value);
