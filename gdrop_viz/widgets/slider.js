// Number that a person sets by dragging, by keys or by typing: one label, one slider, one number field.

function render({ model, el }) {
  const id = `gdv-slider-${Math.random().toString(36).slice(2)}`; // each widget loads its own copy of this module
  el.classList.add("jupyter-widgets", "gdv-slider");
  const label = document.createElement("label");
  label.className = "widget-label";
  label.htmlFor = id;
  const range = document.createElement("input");
  Object.assign(range, { type: "range", id });
  range.setAttribute("role", "slider"); // its own role, spelled out for tools that look for the attribute
  const field = document.createElement("input");
  field.type = "number";
  el.append(label, range, field);

  const show = () => {
    const [value, name] = [model.get("value"), model.get("description")];
    label.textContent = name;
    field.setAttribute("aria-label", `${name}, as a number`);
    for (const input of [range, field]) {
      for (const key of ["min", "max", "step"]) input[key] = model.get(key);
      input.disabled = model.get("disabled");
      input.title = model.get("help");
      // what a person is typing is left alone until it is finished
      if (Number(input.value) !== value || input.value === "") input.value = value;
    }
    for (const [name, at] of [["valuetext", value], ["valuenow", value], ["valuemin", model.get("min")], ["valuemax", model.get("max")]]) {
      range.setAttribute(`aria-${name}`, at);
    }
  };
  const set = (typed) => {
    const [low, high] = [model.get("min"), model.get("limit") ?? model.get("max")];
    if (typed !== "" && Number.isFinite(Number(typed))) {
      const value = Math.min(high, Math.max(low, Number(typed)));
      const whole = model.get("odd") ? 2 * Math.floor(value / 2) + 1 : model.get("integer") ? Math.round(value) : value;
      if (whole > model.get("max")) model.set("max", whole); // typed beyond the slider: it grows
      model.set("value", whole);
      model.save_changes();
    }
    show();
  };
  range.addEventListener("input", () => set(range.value));
  field.addEventListener("change", () => set(field.value));
  // the wheel scrolls the page: a focused number field would change instead
  field.addEventListener("wheel", () => field.blur(), { passive: true });
  // the notebook must not take the arrow keys as its own
  for (const input of [range, field]) input.addEventListener("keydown", (event) => event.stopPropagation());

  const watched = ["value", "min", "max", "step", "disabled", "description", "help"].map((name) => `change:${name}`);
  for (const name of watched) model.on(name, show);
  show();
  return () => {
    for (const name of watched) model.off(name, show);
  };
}

export default { render };
