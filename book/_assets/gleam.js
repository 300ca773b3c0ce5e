// On paper solutions are open.
addEventListener("beforeprint", () => {
  for (const part of document.querySelectorAll("details.sd-dropdown, .tag_solution > details")) part.open = true;
});
