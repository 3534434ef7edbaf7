// Suggestions for the clip at hand. props.value: a list of instructions. A tap fills an empty field, or one that holds
// a suggestion; words of one's own stay, and the suggestion is added to them.
const group = element.querySelector(".ideas"), seen = new Set();

function fill(words) {
  const field = document.querySelector("#instruction textarea");
  if (!field) return;
  const typed = field.value.trim();
  const own = typed && !seen.has(typed) && !typed.includes("…");
  const joined = own && !typed.includes(words) ? `${typed.replace(/[.,;\s]+$/, "")} and ${words[0].toLowerCase()}${words.slice(1)}` : words;
  field.value = own && typed.includes(words) ? typed : joined;
  field.dispatchEvent(new Event("input", { bubbles: true }));
  field.focus();
  field.setSelectionRange(field.value.length, field.value.length);
}

function show() {
  const list = props.value || [];
  list.forEach((words) => seen.add(words));
  group.hidden = !list.length;
  group.replaceChildren(...list.map((words) => {
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: words });
    button.addEventListener("click", () => fill(words));
    return button;
  }));
}
watch("value", show);
show();
