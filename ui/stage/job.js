// The job on the stage. gradio gives `element`, `props`, `watch` and `trigger`; the markup is in job.html.
// props.value: {clip, from, to, aspect, words} of the clip that is edited; props.progress: how far the job is, by `JobView`.
const find = (name) => element.querySelector(name);
const root = find(".job"), video = find("video"), veil = find(".veil"), image = find("img"), words = find(".words");
const bar = find(".bar"), phases = find(".phases"), now = find(".now"), left = find(".left"), back = find(".back");
const spoken = find(".spoken"), home = document.title;
const calm = window.matchMedia("(prefers-reduced-motion: reduce)");

let ends = null, began = 0, share = 0, told = "", aside = false, focused = null;

const seconds = (value) => {
  const whole = Math.max(1, Math.round(value));
  if (whole < 60) return `${whole} s`;
  return `${Math.floor(whole / 60)} min ${String(whole % 60).padStart(2, "0")} s`;
};
const say = (sentence) => { if (sentence && sentence !== told) { told = sentence; spoken.textContent = sentence; } };
const state = () => (props.progress && props.progress.state) || "idle";

function showClip() {
  const about = props.value;
  if (!about || !about.clip) { video.removeAttribute("src"); video.load(); return; }
  find("h2").textContent = about.words || "";
  find(".what").textContent = about.what || "";
  root.style.setProperty("--aspect", about.aspect || 1.78);
  if (video.dataset.url === about.clip.url && video.src) return;
  video.dataset.url = about.clip.url;
  video.src = about.clip.url;
}
// Only the part of the clip that is edited plays.
video.addEventListener("loadedmetadata", () => {
  if (props.value && props.value.from) video.currentTime = props.value.from;
  if (!calm.matches) video.play().catch(() => {});
});
video.addEventListener("timeupdate", () => {
  const about = props.value;
  if (about && about.to && video.currentTime > about.to) video.currentTime = about.from || 0;
});

// The plan's region, 8 x 8: 1 - cosine between source and plan. Scaled up by the browser, which blurs it softly.
function drawVeil(region) {
  const pen = veil.getContext("2d");
  pen.clearRect(0, 0, 8, 8);
  find(".legend").hidden = !region;
  if (!region) { veil.removeAttribute("aria-label"); return; }
  const picture = pen.createImageData(8, 8);
  region.forEach((value, index) => picture.data.set([249, 115, 22, Math.round(255 * Math.min(1, Math.max(0, (value - 0.15) / 0.6)))], 4 * index));
  pen.putImageData(picture, 0, 0);
  const cells = region.filter((value) => value >= 0.4).length;
  veil.setAttribute("aria-label", `The plan will change ${Math.round((100 * cells) / 64)} % of the picture`);
}

function showPhases(progress) {
  const names = props.phases, at = names.findIndex(([key]) => key === progress.phase);
  const done = at < 0 ? 0 : at;
  phases.replaceChildren(...names.map(([key, name], index) => {
    const line = document.createElement("li");
    const here = state() === "working" && index === done;
    line.dataset.at = index < done ? "past" : here ? "now" : "later";
    line.textContent = here ? progress.words : name;
    return line;
  }));
  now.textContent = progress.words || "";
}

function tick() {
  const progress = props.progress || {};
  if (state() === "waiting") {
    words.textContent = progress.words ? `${progress.words}. ${props.meanwhile}` : props.next;
    now.textContent = progress.words || props.next;
    left.textContent = "";
    document.title = progress.words ? `${progress.ahead || 0} ahead · ${home}` : home;
    say(progress.words);
    return;
  }
  if (state() !== "working") return;
  const rest = ends === null ? null : Math.max(0, (ends - performance.now()) / 1000);
  left.textContent = rest === null ? "" : rest < 1 ? "almost done" : `${seconds(rest)} left`;
  const spent = (performance.now() - began) / 1000;
  const guess = rest === null ? progress.share || 0 : spent / Math.max(0.1, spent + rest);
  share = Math.max(share, Math.min(0.99, Math.max(guess, (progress.share || 0) * 0.9)));
  const percent = Math.round(100 * share);
  bar.firstElementChild.style.width = percent + "%";
  bar.setAttribute("aria-valuenow", percent);
  document.title = `${percent} % · ${home}`;
}

function follow() {
  const progress = props.progress || {}, kind = state(), before = root.dataset.state;
  root.dataset.state = kind;
  root.hidden = kind === "idle";
  root.dataset.step = progress.step || 0;
  root.dataset.phase = progress.phase || "";
  if (kind === "idle") return over(before, progress.outcome);
  if (before === "idle") start();
  if (kind === "working" && before !== "working") began = performance.now();
  if (progress.left !== null && progress.left !== undefined) ends = performance.now() + 1000 * progress.left;
  if (progress.preview) { image.src = progress.preview; image.hidden = false; }
  if (progress.region) drawVeil(progress.region);
  if (kind === "working") { words.textContent = progress.words || ""; say(progress.spoken); }
  showPhases(progress);
  tick();
}

function start() {
  began = performance.now(); ends = null; share = 0; told = ""; setAside(false);
  image.hidden = true; image.removeAttribute("src"); drawVeil(null);
  bar.firstElementChild.style.width = "0";
  document.querySelectorAll("#viewer video").forEach((other) => other.pause()); // a result that plays slows a model on a CPU
  const box = element.getBoundingClientRect();
  if (box.top < 0 || box.top > innerHeight / 2) element.scrollIntoView({ block: "center", behavior: calm.matches ? "auto" : "smooth" });
  hold("#go", "#stop");
}

function over(before, outcome) {
  if (!before || before === "idle") return;
  video.pause();
  document.title = outcome === "done" ? `✓ ${home}` : home;
  if (outcome === "done" && !document.hidden) setTimeout(() => { document.title = home; }, 4000);
  say({ done: "Your edit is done.", stopped: "Stopped." }[outcome]);
  hold("#stop", "#go");
  if (focused === root) hold(null, "#go");
}
document.addEventListener("visibilitychange", () => {
  if (!document.hidden && document.title.startsWith("✓") && state() === "idle") document.title = home;
});

// The button that one had focus on is hidden when a job begins or ends: the one in its place takes the focus over.
document.addEventListener("focusin", (event) => {
  focused = root.contains(event.target) ? root : event.target.closest("#go, #stop") || event.target;
});
function hold(from, to) {
  const had = from === null || (focused && focused.matches && focused.matches(from));
  if (had) setTimeout(() => {
    if (document.activeElement === document.body || document.activeElement?.matches(from || "body"))
      document.querySelector(to)?.focus({ preventScroll: true });
  }, 60);
}

function setAside(value) {
  aside = value;
  root.toggleAttribute("data-aside", aside);
  back.hidden = !aside;
}
back.addEventListener("click", () => setAside(false));
find(".halt").addEventListener("click", () => trigger("halt"));
// Whoever opens another edit meanwhile looks at that one, and keeps the job in sight.
document.addEventListener("click", (event) => {
  if (state() !== "idle" && event.target.closest(".cards .card")) setAside(true);
});

setInterval(tick, 500);
// Without naming the props: gradio takes a name in quotes for an event of this component.
watch(Object.keys(props), () => { showClip(); follow(); });
showClip();
follow();
