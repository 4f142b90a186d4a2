// A key puts the cursor into a field of the review, Escape takes it out. Streamlit's own shortcuts press buttons only.
const memory = (window.emaReviewKeys ??= { fields: {}, listens: false });

const typing = (at) => at && (at.isContentEditable || ["INPUT", "TEXTAREA", "SELECT"].includes(at.tagName));

function pressed(event) {
  const at = document.activeElement;
  const fields = Object.values(memory.fields).map((selector) => document.querySelector(selector));
  if (event.key === "Escape" && fields.includes(at)) return at.blur();
  if (event.ctrlKey || event.metaKey || event.altKey || typing(at) || typing(event.target)) return;
  const field = document.querySelector(memory.fields[event.key.toLowerCase()] || "#no-such-field");
  if (!field) return;
  event.preventDefault();
  field.focus();
  field.scrollIntoView({ block: "nearest" });
}

export default function (component) {
  memory.fields = component.data.fields;
  if (!memory.listens) document.addEventListener("keydown", pressed);
  memory.listens = true;
}
