// The slot of a clip. gradio gives `element`, `props`, `trigger` and `watch`; the markup is in drop.html.
const find = (name) => element.querySelector(name);
const root = find(".drop"), video = find("video"), input = find(".file"), strip = find(".strip");
const canvas = find(".strip canvas"), busy = find(".busy"), problem = find(".problem");
const handles = { start: find(".handle.start"), end: find(".handle.end") };
const words = props.words, picture = new Image();
const calm = window.matchMedia("(prefers-reduced-motion: reduce)");
const ANSWER_SECONDS = 240; // longer than the server may take for a clip

let clip = null, most = 1, from = 0, to = 1, ticket = 0, sending = null, waiting = 0, telling = 0;

const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
const fill = (sentence, values) => sentence.replace(/\{(\w+)\}/g, (_, key) => values[key]);
// When frame `index` starts; the end of the clip for an index behind the last one.
const timeOf = (index) => (index >= clip.frames ? clip.seconds : clip.times.length ? clip.times[index] : index / clip.fps);
const middleOf = (index) => (timeOf(index) + timeOf(index + 1)) / 2;
const told = (seconds) => seconds.toFixed(seconds < 9.95 && clip.seconds < 2 ? 2 : 1);

function show(value) {
  if (!value) value = { clip: null, problem: "", ticket: 0 };
  if (value.ticket && value.ticket === ticket) {
    settle();
    if (value.clip) path = asked;
  }
  problem.textContent = value.problem || "";
  if (value.clip || !value.problem) put(value.clip, value.most);
}

function put(next, limit) {
  const same = next && clip && next.video.url === clip.video.url;
  clip = next;
  root.toggleAttribute("data-clip", !!clip);
  root.toggleAttribute("data-example", !!clip?.example);
  find(".name").textContent = clip ? clip.name : words.none;
  find(".facts").textContent = clip ? clip.facts : words.invitation;
  find(".facts").title = clip ? clip.detail : "";
  find(".notices").textContent = clip ? clip.notices.join(" ") : "";
  find(".choose").textContent = clip && !clip.example ? words.replace : words.choose;
  find(".remove").hidden = !clip || clip.example;
  find(".part").hidden = !clip;
  putLong();
  if (!clip) { video.pause(); video.removeAttribute("src"); video.removeAttribute("poster"); video.load(); return; }
  most = Math.min(limit, clip.frames);
  if (same) return lay();
  video.preload = clip.example ? "none" : "metadata"; // an example's bytes are fetched when somebody plays it
  video.poster = clip.poster;
  video.src = clip.video.url;
  picture.src = clip.strip;
  move(0, most, null);
  if (!clip.example && !calm.matches && element.offsetParent !== null) video.play().catch(() => {});
}

// A file that is longer than a clip may be: only a part of it is here, and another one can be asked for.
const long = find(".long"), second = find(".long input");
let path = null, asked = null; // the file on the server that the clip is from; the last one that the page was asked for
function putLong() {
  long.hidden = !clip?.part || !path;
  if (long.hidden) return;
  second.max = Math.ceil(clip.part.of - clip.seconds);
  second.value = clip.part.start;
  second.setAttribute("aria-label", words.long_label);
  tellLong(clip.part.start);
}
function tellLong(start) {
  start = Math.min(start, clip.part.of - clip.seconds);
  const short = (seconds) => String(Number(seconds.toFixed(1)));
  find(".long span").textContent = fill(words.long, {
    of: short(clip.part.of), from: short(start), to: short(start + clip.seconds) });
}
second.addEventListener("input", () => tellLong(Number(second.value)));
let choosing = 0; // keys change it in steps
second.addEventListener("change", () => {
  clearTimeout(choosing);
  choosing = setTimeout(() => {
    const mine = ++ticket;
    start("");
    preparing();
    ask({ path, ticket: mine, start: Number(second.value) });
  }, 500);
});

// The filmstrip and its two handles

function paint() {
  const box = strip.getBoundingClientRect(), ratio = window.devicePixelRatio || 1;
  if (!clip || !box.width || !picture.naturalWidth) return;
  canvas.width = Math.round(box.width * ratio);
  canvas.height = Math.round(box.height * ratio);
  const pen = canvas.getContext("2d"), cell = picture.naturalWidth / clip.cells, tall = picture.naturalHeight;
  // As many cells as fit without being stretched; each is cut to what it has room for.
  const count = clamp(Math.round(canvas.width / ((cell / tall) * canvas.height)), 1, 200), wide = canvas.width / count;
  const scale = Math.max(wide / cell, canvas.height / tall), w = wide / scale, h = canvas.height / scale;
  for (let i = 0; i < count; i++) {
    const nth = Math.min(clip.cells - 1, Math.floor(((i + 0.5) / count) * clip.cells));
    pen.drawImage(picture, nth * cell + (cell - w) / 2, (tall - h) / 2, w, h, i * wide, 0, wide, canvas.height);
  }
}

function lay() {
  strip.style.setProperty("--from", `${(100 * from) / clip.frames}%`);
  strip.style.setProperty("--to", `${(100 * to) / clip.frames}%`);
  for (const [name, at] of [["start", from], ["end", to]]) {
    const handle = handles[name];
    handle.setAttribute("aria-label", words[name]);
    handle.setAttribute("aria-valuemin", 0);
    handle.setAttribute("aria-valuemax", clip.seconds.toFixed(2));
    handle.setAttribute("aria-valuenow", timeOf(at).toFixed(2));
    handle.setAttribute("aria-valuetext", fill(words.seconds, { seconds: told(timeOf(at)) }));
  }
  const whole = from === 0 && to === clip.frames, first = from === 0 && to === most;
  find(".range").textContent = fill(whole ? words.all : words.range, {
    from: told(timeOf(from)), to: told(timeOf(to)), length: told(timeOf(to) - timeOf(from)) });
  find(".whole").textContent = most === clip.frames ? words.whole : fill(words.first, { length: told(timeOf(most)) });
  find(".whole").hidden = first;
  root.dataset.part = `${from} ${to - from}`;
}

// The part from `a` to `b`; the edge that was not moved gives way to it. It is never empty, and never longer than allowed.
function move(a, b, moved) {
  from = clamp(a, 0, clip.frames - 1);
  to = clamp(b, 1, clip.frames);
  if (moved === "end") from = clamp(from, Math.max(0, to - most), to - 1);
  else to = clamp(to, from + 1, Math.min(clip.frames, from + most));
  lay();
}

function follow(index) {
  video.pause();
  if (!video.readyState) { video.preload = "auto"; video.load(); }
  video.currentTime = middleOf(clamp(index, 0, clip.frames - 1));
}

// Tell the page, but not for every frame on the way. Whoever leaves the handle may press the button next.
function tell(after = 0) {
  clearTimeout(telling);
  telling = after ? setTimeout(tell, after) : 0;
  if (!after && clip) trigger("input", { start: from, frames: to - from });
}
strip.addEventListener("focusout", () => { if (telling) tell(); });

function edge(name, at) {
  if (name === "start") move(at, to, "start"); else move(from, at, "end");
  follow(name === "start" ? from : to - 1);
}

for (const [name, handle] of Object.entries(handles)) {
  handle.addEventListener("keydown", (event) => {
    const page = Math.max(1, Math.round(clip.fps / 2)), at = name === "start" ? from : to;
    const step = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, PageUp: page, PageDown: -page }[event.key];
    const goal = event.key === "Home" ? 0 : event.key === "End" ? clip.frames : step ? at + step : null;
    if (goal === null) return;
    event.preventDefault();
    edge(name, goal);
    tell(250);
  });
}

let grip = null; // what is dragged, and where on it
strip.addEventListener("pointerdown", (event) => {
  if (!clip || event.button !== 0) return;
  const at = frameUnder(event), inside = at > from && at < to;
  const name = event.target.classList.contains("handle") ? (event.target === handles.start ? "start" : "end")
    : event.target.classList.contains("chosen") && to - from < clip.frames ? "both" : null;
  grip = { name: name || (Math.abs(at - from) < Math.abs(at - to) ? "start" : "end"), offset: at - from };
  if (!name && inside) { grip = null; return; } // a click on the whole clip moves nothing
  strip.setPointerCapture(event.pointerId);
  if (grip.name !== "both") handles[grip.name].focus({ preventScroll: true });
  if (!name) edge(grip.name, Math.round(at));
  event.preventDefault();
});
strip.addEventListener("pointermove", (event) => {
  if (!grip || !strip.hasPointerCapture(event.pointerId)) return;
  const at = frameUnder(event), length = to - from;
  if (grip.name !== "both") return edge(grip.name, Math.round(at));
  const start = clamp(Math.round(at - grip.offset), 0, clip.frames - length);
  move(start, start + length, "start");
  follow(start);
});
const letGo = () => { if (grip) { grip = null; tell(); } };
strip.addEventListener("pointerup", letGo);
strip.addEventListener("pointercancel", letGo);
function frameUnder(event) {
  const box = strip.getBoundingClientRect();
  return clamp((event.clientX - box.left) / box.width, 0, 1) * clip.frames;
}
find(".whole").addEventListener("click", () => { move(0, most, null); follow(0); tell(); });

// The player

const play = find(".play");
function state() {
  root.dataset.playing = !video.paused;
  play.setAttribute("aria-label", video.paused ? words.play : words.pause);
}
play.addEventListener("click", () => (video.paused ? video.play().catch(() => {}) : video.pause()));
video.addEventListener("play", state);
video.addEventListener("pause", state);
function tick() {
  if (!element.isConnected) { video.pause(); return; }
  if (clip && !video.paused && !video.seeking) {
    const now = video.currentTime;
    if (now >= timeOf(to) - 0.01 || now < timeOf(from) - 0.05) video.currentTime = timeOf(from) + 0.001;
    strip.style.setProperty("--now", `${(100 * now) / clip.seconds}%`);
  }
  video.requestVideoFrameCallback(tick);
}

// Taking a file

const suffixOf = (name) => (name.lastIndexOf(".") > 0 ? name.slice(name.lastIndexOf(".")).toLowerCase() : "");
const isClip = (file) => props.suffixes.includes(suffixOf(file.name)) || file.type.startsWith("video/") || props.types.includes(file.type);

function refusal(file) {
  const name = file.name.length > 60 ? file.name.slice(0, 57) + "…" : file.name, mega = (bytes) => bytes / 1e6;
  if (!isClip(file)) return fill(words.wrong, { name });
  if (!file.size) return fill(words.empty, { name });
  if (file.size <= props.most_bytes) return "";
  const size = mega(file.size), limit = mega(props.most_bytes);
  return fill(words.large, { name, size: size.toFixed(size < limit + 1 ? 1 : 0), limit: limit.toFixed(0) });
}

function take(file) {
  problem.textContent = refusal(file);
  if (problem.textContent) return;
  if (sending) sending.abort();
  const mine = ++ticket, request = new XMLHttpRequest(), form = new FormData();
  form.append("files", file, file.name);
  sending = request;
  start(file.name);
  const lost = (sentence) => { if (mine === ticket) giveUp(sentence); };
  request.upload.addEventListener("progress", (event) => { if (event.lengthComputable) progress(event.loaded / event.total); });
  request.upload.addEventListener("load", preparing);
  request.addEventListener("error", () => lost(words.lost));
  request.addEventListener("load", () => {
    if (mine !== ticket) return;
    sending = null;
    let sent = null;
    try { sent = JSON.parse(request.responseText)[0]; } catch {}
    if (request.status === 200 && sent) return ask({ path: sent, ticket: mine });
    // The server's own sentence, where it has one.
    const said = request.responseText, sentence = request.status < 500 && said.length < 300 && /^[^<{[]+\.$/.test(said);
    lost(request.status === 413 ? fill(words.large, sizes(file)) : sentence ? said : words.lost);
  });
  request.open("POST", uploadUrl());
  request.withCredentials = true;
  request.send(form);
}

// Let the page prepare the file that is on the server.
function ask(what) {
  asked = what.path;
  trigger("upload", what);
  waiting = setTimeout(() => what.ticket === ticket && giveUp(words.lost), ANSWER_SECONDS * 1000);
}
function giveUp(sentence) {
  settle();
  problem.textContent = sentence;
}

function sizes(file) {
  return { name: file.name, size: (file.size / 1e6).toFixed(1), limit: (props.most_bytes / 1e6).toFixed(0) };
}

function uploadUrl() {
  const config = window.gradio_config || {}, here = location.origin + location.pathname;
  const own = new URL(config.root || here, here);
  // As gradio does it: behind a proxy the root's path is right, and the page's own origin is the one to reach it by.
  const origin = own.hostname === location.hostname ? location.origin : own.origin;
  return origin + own.pathname.replace(/\/$/, "") + (config.api_prefix || "/gradio_api") + "/upload";
}

function start(name) {
  clearTimeout(waiting);
  busy.hidden = false;
  busy.classList.remove("preparing");
  find(".cancel").hidden = false;
  busy.dataset.name = name.length > 40 ? name.slice(0, 37) + "…" : name;
  progress(0);
  root.dataset.busy = "true";
  video.pause();
  trigger("sending");
}

function progress(share) {
  const whole = Math.round(100 * share);
  busy.style.setProperty("--done", `${whole}%`);
  find(".track").setAttribute("aria-valuenow", whole);
  find(".what").textContent = fill(words.sending, { name: busy.dataset.name, share: whole });
}

function preparing() {
  busy.classList.add("preparing");
  find(".track").removeAttribute("aria-valuenow");
  find(".what").textContent = words.preparing;
  find(".cancel").hidden = true;
}

function settle() {
  clearTimeout(waiting);
  sending = null;
  busy.hidden = true;
  delete root.dataset.busy;
  trigger("settled");
}

find(".cancel").addEventListener("click", () => { if (sending) sending.abort(); ticket++; settle(); find(".choose").focus(); });
find(".choose").addEventListener("click", () => input.click());
find(".remove").addEventListener("click", () => { trigger("clear"); find(".choose").focus(); });
input.addEventListener("change", () => { const file = input.files[0]; input.value = ""; if (file) take(file); });

// The whole page takes files. Fields that take files of their own, such as the mask's, have handled theirs already.

const veil = document.createElement("div");
veil.className = "drop-veil";
veil.innerHTML = "<p></p>";
veil.firstChild.textContent = words.drop;
veil.style.cssText = "position:fixed;inset:0;z-index:1000;display:none;place-items:center;pointer-events:none;" +
  "background:rgb(16 16 20 / 0.8);color:#fff;font:600 24px/1.4 system-ui,sans-serif;text-align:center;" +
  "outline:4px dashed #fb923c;outline-offset:-18px";
document.body.append(veil);
let lastOver = 0;
let inside = false; // a picture of the page itself is being dragged, which browsers call a file, too
const hasFiles = (event) => !inside && [...(event.dataTransfer?.types || [])].includes("Files");
const unveil = () => { veil.style.display = "none"; };

const own = (handler) => function handle(event) {
  if (element.isConnected) return handler(event);
  for (const [name, it] of listeners) document.removeEventListener(name, it);
  veil.remove();
};
const listeners = [
  ["dragover", own((event) => {
    if (!hasFiles(event) || event.defaultPrevented) return unveil();
    event.preventDefault();
    event.dataTransfer.dropEffect = "copy";
    veil.style.display = "grid";
    // Leaving is not told reliably; while files are over the page this event comes several times a second.
    clearTimeout(lastOver);
    lastOver = setTimeout(unveil, 600);
  })],
  ["drop", own((event) => {
    unveil();
    if (!hasFiles(event) || event.defaultPrevented) return;
    event.preventDefault(); // a browser would leave the page and open the file
    const files = [...event.dataTransfer.files];
    const file = files.find(isClip) || files[0];
    if (file) take(file);
  })],
  ["dragstart", own(() => { inside = true; })],
  ["dragend", own(() => { inside = false; })],
  ["paste", own((event) => {
    // Words copied from some programs come with a picture of themselves.
    const typing = event.target.matches?.("input, textarea") && event.clipboardData?.types.includes("text/plain");
    if (typing) return;
    const file = [...(event.clipboardData?.files || [])].find(isClip);
    if (file) { event.preventDefault(); take(file); }
  })],
];
for (const [name, listener] of listeners) document.addEventListener(name, listener);

// Enter in the instruction would edit the clip that is being replaced.
root.closest(".gradio-container, body").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && root.dataset.busy && event.target.matches(props.guarded || "#none")) {
    event.preventDefault();
    event.stopPropagation();
  }
}, true);

input.accept = ["video/*", ...props.suffixes].join(",");
find(".cancel").textContent = words.cancel;
find(".remove").textContent = words.remove;
find(".part").setAttribute("aria-label", words.part);
find(".track").setAttribute("aria-label", words.preparing);
picture.addEventListener("load", paint);
new ResizeObserver(paint).observe(strip);
new IntersectionObserver((entries) => { if (!entries.at(-1).isIntersecting) video.pause(); }).observe(video);
document.addEventListener("visibilitychange", () => { if (document.hidden) video.pause(); });
state();
video.requestVideoFrameCallback(tick);
watch("value", () => show(props.value));
show(props.value);
