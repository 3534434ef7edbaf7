// The comparison viewer. gradio gives `element`, `props` and `watch`; the markup is in viewer.html.
const find = (name) => element.querySelector(name);
const root = find(".viewer"), canvas = find("canvas"), video = find("video"), stage = find(".stage");
const divider = find(".divider"), names = find(".names"), play = find(".play"), frame = find(".frame");
const counter = find(".counter"), wipe = find(".wipe"), modes = find(".modes"), sound = find(".sound");
const pen = canvas.getContext("2d");
const calm = window.matchMedia("(prefers-reduced-motion: reduce)");
const group = "view-" + Math.random().toString(36).slice(2); // radio names are global to a page

let data = null, mode = "wipe", held = false, current = 0;

// A frame starts at index / fps, or at a time of its own where the rate is variable; the small term covers times that
// were rounded down on their way here.
const frameAt = (time) => {
  const late = data.times.findIndex((start) => start > time + 0.02 / data.fps);
  const index = data.times.length ? (late < 0 ? data.frames : late) - 1 : Math.floor(time * data.fps + 0.02);
  return Math.min(data.frames - 1, Math.max(0, index));
};
// The middle of a frame is never the neighbour's.
const middleOf = (index) => {
  if (!data.times.length) return (index + 0.5) / data.fps;
  const start = data.times[index];
  return index + 1 < data.frames ? (start + data.times[index + 1]) / 2 : start + 0.25 / data.fps;
};
const shown = () => (held ? "panel-" + data.compare[0] : mode);
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

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
  video.muted = true;
  mute();
  buildModes();
  if (!same) { video.src = data.video.url; seen(0); } else draw();
}

function buildModes() {
  const [a, b] = data.compare.map((i) => data.panels[i]);
  const single = data.panels.map((name, i) => ["panel-" + i, name]);
  const list = data.panels.length === 1 ? single : [["wipe", "Wipe"],
    ["side", data.panels.length > 2 ? "All" : "Side by side"], ...single, ["difference", "Difference"]];
  if (!list.some(([key]) => key === mode)) mode = data.mode || "wipe";
  if (root.dataset.panels !== data.panels.join("|")) mode = data.mode || "wipe";
  if (root.dataset.panels === data.panels.join("|")) return setMode(mode); // keep what somebody may be clicking on
  root.dataset.panels = data.panels.join("|");
  modes.replaceChildren(modes.querySelector("legend"), ...list.map(([key, label], i) => {
    const line = document.createElement("label"), input = document.createElement("input");
    Object.assign(input, { type: "radio", name: group, value: key, checked: key === mode });
    input.addEventListener("change", () => setMode(key));
    line.append(input, document.createTextNode(label));
    line.title = key === "difference" ? `${a} against ${b}, brightened` : `Key ${i + 1}`;
    return line;
  }));
}

function setMode(key) {
  mode = key;
  for (const input of modes.querySelectorAll("input")) input.checked = input.value === key;
  draw();
}

function panelsOf(view) {
  if (view === "side") return data.panels.map((_, i) => i);
  if (view.startsWith("panel-")) return [Number(view.slice(6))];
  return data.compare;
}

function draw() {
  if (!data || video.readyState < 2) return;
  const view = shown(), width = video.videoWidth / data.panels.length, height = video.videoHeight;
  const list = panelsOf(view), side = view === "side";
  // Narrow screens stack wide panels; tall ones stay side by side.
  const columns = side && width > height && stage.clientWidth < 220 * list.length ? 1 : side ? list.length : 1;
  const rows = side ? Math.ceil(list.length / columns) : 1;
  const w = width * columns, h = height * rows;
  if (canvas.width !== w || canvas.height !== h) { canvas.width = w; canvas.height = h; }
  stage.style.setProperty("--aspect", w / h);
  const part = (i, x, y, from = 0, to = 1) => pen.drawImage(video, (i + from) * width, 0, (to - from) * width, height,
    x + from * width, y, (to - from) * width, height);
  if (side) list.forEach((panel, i) => part(panel, (i % columns) * width, Math.floor(i / columns) * height));
  else if (view === "wipe") { part(list[0], 0, 0); const s = wipe.value / 100; if (s < 1) part(list[1], 0, 0, s, 1); }
  else if (view === "difference") difference(part, list, w, h);
  else part(list[0], 0, 0);
  label(view, list, columns);
}

function difference(part, [a, b], w, h) {
  part(a, 0, 0);
  pen.globalCompositeOperation = "difference";
  part(b, 0, 0);
  pen.globalCompositeOperation = "lighter";
  for (let i = 0; i < 2; i++) pen.drawImage(canvas, 0, 0, w, h, 0, 0, w, h); // twice doubled: four times as bright
  pen.globalCompositeOperation = "source-over";
}

function label(view, list, columns) {
  const text = view === "difference" ? ["Difference × 4"] : list.map((i) => data.panels[i]);
  const key = [view, columns, ...text].join("|");
  divider.hidden = view !== "wipe";
  stage.style.setProperty("--wipe", wipe.value + "%");
  find(".wipe-label").classList.toggle("off", view !== "wipe");
  const [a, b] = data.compare.map((i) => data.panels[i].toLowerCase());
  wipe.setAttribute("aria-valuetext", `${wipe.value}% ${a}, ${100 - wipe.value}% ${b}`);
  if (names.dataset.key === key) return;
  names.dataset.key = key;
  names.className = "names " + (view === "side" ? (columns > 1 ? "columns" : "rows") : view);
  names.replaceChildren(...text.map((word) => Object.assign(document.createElement("li"), { textContent: word })));
  canvas.setAttribute("aria-label", text.join(view === "wipe" ? " left of the divider, right of it " : " beside "));
}

function seen(index) {
  current = index;
  frame.value = index;
  frame.setAttribute("aria-valuetext", `frame ${index + 1} of ${data.frames}`);
  counter.textContent = `${index + 1}/${data.frames}`;
  root.dataset.frame = index;
}

function seek(index) {
  video.pause();
  const target = clamp(index, 0, data.frames - 1);
  seen(target);
  video.currentTime = middleOf(target);
}

const toggle = () => (video.paused ? video.play().catch(() => {}) : video.pause());
const state = () => { play.textContent = video.paused ? "Play" : "Pause"; root.dataset.playing = !video.paused; };
function mute() {
  sound.textContent = video.muted ? "Sound on" : "Sound off";
  sound.setAttribute("aria-pressed", String(!video.muted));
}
function setWipe(value) { wipe.value = clamp(value, 0, 100); draw(); }

function tick(_, meta) {
  if (!element.isConnected) { video.pause(); return; }
  if (data && !video.seeking) { draw(); if (!video.paused) seen(frameAt(meta.mediaTime)); }
  video.requestVideoFrameCallback(tick);
}

video.addEventListener("loadeddata", () => {
  draw();
  const visible = element.offsetParent !== null;
  if (visible && !calm.matches) video.play().catch(() => {}); // muted, and paused where motion is unwelcome
});
video.addEventListener("seeked", draw);
video.addEventListener("play", state);
video.addEventListener("pause", state);
video.addEventListener("error", () => {
  if (data) find(".problem").textContent = "This browser cannot play the video. Download it instead.";
});
play.addEventListener("click", toggle);
sound.addEventListener("click", () => { video.muted = !video.muted; mute(); });
frame.addEventListener("input", () => seek(Number(frame.value)));
frame.addEventListener("keydown", (event) => {
  const jump = { PageUp: 10, PageDown: -10 }[event.key];
  if (jump) { event.preventDefault(); seek(current + jump); }
});
wipe.addEventListener("input", draw);

const drag = (event) => {
  if (mode !== "wipe" || !data) return;
  const box = canvas.getBoundingClientRect();
  setWipe(Math.round((100 * (event.clientX - box.left)) / box.width));
};
stage.addEventListener("pointerdown", (event) => { if (event.button === 0) { stage.setPointerCapture(event.pointerId); drag(event); } });
stage.addEventListener("pointermove", (event) => { if (stage.hasPointerCapture(event.pointerId)) drag(event); });

root.addEventListener("keydown", (event) => {
  if (!data || event.ctrlKey || event.altKey || event.metaKey) return;
  const native = event.target.matches("input, button, summary");
  const digit = modes.querySelectorAll("input")[Number(event.key) - 1];
  if (event.key === " " && !native) toggle();
  else if (event.key === "ArrowRight" && !native) seek(current + 1);
  else if (event.key === "ArrowLeft" && !native) seek(current - 1);
  else if (event.key === "[") setWipe(Number(wipe.value) - 5);
  else if (event.key === "]") setWipe(Number(wipe.value) + 5);
  else if (digit) setMode(digit.value);
  else if (event.key.toLowerCase() === "o") { held = true; draw(); }
  else return;
  event.preventDefault();
});
const release = () => { if (held) { held = false; draw(); } };
root.addEventListener("keyup", (event) => { if (event.key.toLowerCase() === "o") release(); });
root.addEventListener("focusout", release);

new IntersectionObserver((entries) => {
  if (!entries.at(-1).isIntersecting && !video.paused) video.pause();
}).observe(stage);
new ResizeObserver(() => draw()).observe(stage);
document.addEventListener("visibilitychange", () => { if (document.hidden) video.pause(); });

video.requestVideoFrameCallback(tick);
watch("value", () => show(props.value));
show(props.value);
