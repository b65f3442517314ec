// Folded box with the code of a panel and a Copy button.

function render({ model, el }) {
  el.classList.add("gdv-code");
  const details = document.createElement("details");
  const heading = document.createElement("summary");
  heading.textContent = model.get("description");
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "Copy";
  const note = document.createElement("span");
  note.setAttribute("role", "status");
  const code = document.createElement("pre");
  code.tabIndex = 0;
  details.append(heading, button, note, code);
  el.append(details);

  const show = () => { code.textContent = model.get("code"); note.textContent = ""; };
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(model.get("code"));
      note.textContent = "copied";
    } catch { // no clipboard on pages that are not served securely: mark the text for Ctrl+C
      getSelection().selectAllChildren(code);
      note.textContent = "marked: press Ctrl+C";
    }
  });
  model.on("change:code", show);
  show();
  return () => model.off("change:code", show);
}

export default { render };
