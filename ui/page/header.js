// The header, and the tab in the page's address. props.value: {tagline, model, lead, how, large, paper, code, rows: [[kind, share, pairs]]}.
const find = (name) => element.querySelector(name);
const value = props.value, works = find(".works");
for (const name of ["tagline", "model", "lead", "how"]) find("." + name).textContent = value[name] || "";
find(".paper").href = value.paper;
find(".code").href = value.code;
works.hidden = !value.rows.length && !value.large.length;
find("table").hidden = !value.rows.length;
find("tbody").replaceChildren(...value.rows.map(([kind, share, pairs]) => {
  const row = document.createElement("tr"), name = document.createElement("th"), bar = document.createElement("td");
  const number = document.createElement("td"), fill = document.createElement("i");
  name.scope = "row";
  name.textContent = kind;
  bar.className = "share";
  fill.style.backgroundSize = `${share}% 100%`;
  bar.append(fill);
  number.className = "number";
  number.textContent = `${Math.round((share * pairs) / 100)} of ${pairs}`;
  row.append(name, bar, number);
  return row;
}));
// Words in backticks are commands.
find(".large").replaceChildren(...value.large.split("`").map((words, index) =>
  index % 2 ? Object.assign(document.createElement("code"), { textContent: words }) : document.createTextNode(words)));

document.addEventListener("click", (event) => { if (!works.contains(event.target)) works.open = false; });
works.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && works.open) { works.open = false; works.querySelector("summary").focus(); }
});

// ?tab= opens a tab; a chosen tab is in the address, and Back goes to the one before.
const slug = (tab) => tab.textContent.trim().toLowerCase().replace(/[^a-z]+/g, "-");
// gradio has each name twice: the unseen buttons, by which it measures, have no role and open nothing.
const tabs = () => [...document.querySelectorAll(".tabs > .tab-wrapper [role=tab]")];
const wanted = () => new URL(location.href).searchParams.get("tab");
const open = () => {
  const all = tabs(), name = wanted();
  const tab = name ? all.find((each) => slug(each) === name) : all[0];
  if (tab && tab.getAttribute("aria-selected") !== "true") tab.click();
};
let restoring = false;
document.addEventListener("click", (event) => {
  const tab = event.target.closest("[role=tab]");
  if (!tab || !tabs().includes(tab) || restoring) return;
  const address = new URL(location.href), first = tab === tabs()[0];
  if (first ? !wanted() : wanted() === slug(tab)) return;
  if (first) address.searchParams.delete("tab"); else address.searchParams.set("tab", slug(tab));
  history.pushState(null, "", address);
});
window.addEventListener("popstate", () => { restoring = true; open(); restoring = false; });
if (wanted()) {
  const begin = Date.now(), timer = setInterval(() => {
    const tab = tabs().find((each) => slug(each) === wanted());
    if (tab && tab.getAttribute("aria-selected") === "true") return clearInterval(timer);
    restoring = true; open(); restoring = false; // again until the tabs listen
    if (Date.now() - begin > 15000) clearInterval(timer);
  }, 60);
}
