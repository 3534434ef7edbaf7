// The title of the stage: the words of the edit that it shows, what came of it, and what one can do with it.
// props.value: {words, spoken, facts, strong, chain: [{words, index}], files: [{label, name, file}], buttons: [{event, label}]}.
const find = (name) => element.querySelector(name);
const facts = find(".facts"), chain = find(".chain"), files = find(".files"), buttons = find(".buttons");

// gradio looks for the names of events here: 'again', 'use', 'words', 'whole', 'other', 'back'.
function button(label, event, data) {
  const made = Object.assign(document.createElement("button"), { type: "button", textContent: label });
  made.addEventListener("click", () => {
    if (event === "other") return focusWords();
    trigger(event, data || {});
    if (event === "again" || event === "words" || event === "use") setTimeout(focusWords, 400);
  });
  return made;
}

function focusWords() {
  const field = document.querySelector("#instruction textarea");
  if (!field) return;
  field.focus();
  field.select();
}

// The server names a file as it lies there, and its word counts more than the link's: the page saves a copy by its name.
async function save(entry) {
  const link = document.createElement("a");
  try {
    const answer = await fetch(entry.file.url);
    if (!answer.ok) throw new Error(String(answer.status));
    link.href = URL.createObjectURL(await answer.blob());
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  } catch {
    link.href = entry.file.url;
  }
  link.download = entry.name;
  link.click();
}

function show() {
  const value = props.value;
  find(".title").hidden = !value;
  if (!value) return;
  find("h2").textContent = value.words;
  find("h2").className = value.spoken ? "spoken" : "";
  facts.replaceChildren();
  if (value.strong) facts.append(Object.assign(document.createElement("b"), { textContent: value.strong }), value.facts ? " · " : "");
  facts.append(value.facts || "");
  chain.hidden = !value.chain.length;
  chain.replaceChildren();
  for (const link of value.chain) chain.append(button(link.words, "back", { index: link.index }), " → ");
  buttons.replaceChildren(...value.buttons.map((entry) => button(entry.label, entry.event)));
  files.hidden = !value.files.length;
  files.querySelector("ul").replaceChildren(...value.files.map((entry) => {
    const line = document.createElement("li"), link = document.createElement("a");
    Object.assign(link, { href: entry.file.url, download: entry.name, textContent: entry.label });
    link.append(Object.assign(document.createElement("small"), { textContent: entry.name }));
    link.addEventListener("click", (event) => { event.preventDefault(); files.open = false; save(entry); });
    line.append(link);
    return line;
  }));
}

document.addEventListener("click", (event) => { if (!files.contains(event.target)) files.open = false; });
files.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && files.open) { files.open = false; files.querySelector("summary").focus(); }
});
watch("value", show);
show();
