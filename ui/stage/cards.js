// A row of cards. props.value: {title, clear, current, cards: [{picture, words, note}]}; markup in cards.html.
const find = (name) => element.querySelector(name);
const list = find("ul"), clear = find(".clear");

function card(entry, index, current) {
  const line = document.createElement("li"), button = document.createElement("button");
  button.type = "button";
  button.className = "card";
  button.setAttribute("aria-current", String(index === current));
  const picture = Object.assign(document.createElement("span"), { className: "picture" });
  if (entry.picture) {
    const image = Object.assign(document.createElement("img"), { alt: "", loading: "lazy", decoding: "async" });
    image.src = entry.picture.url || entry.picture;
    picture.append(image);
  }
  const words = Object.assign(document.createElement("span"), { className: "words", textContent: entry.words });
  button.append(picture, words);
  if (entry.note) button.append(Object.assign(document.createElement("span"), { className: "note", textContent: entry.note }));
  button.addEventListener("click", () => trigger("pick", { index }));
  line.append(button);
  return line;
}

function show() {
  const value = props.value || { cards: [] }, held = [...list.querySelectorAll(".card")].indexOf(document.activeElement);
  find(".cards").hidden = !value.cards.length;
  find("h2").textContent = value.title || "";
  clear.hidden = !value.clear;
  list.replaceChildren(...value.cards.map((entry, index) => card(entry, index, value.current)));
  if (held >= 0) list.querySelectorAll(".card")[held]?.focus({ preventScroll: true });
}

clear.addEventListener("click", () => trigger("clear"));
watch("value", show);
show();
