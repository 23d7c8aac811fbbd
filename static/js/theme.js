// Before the first paint: the colours somebody chose, so that the page never flashes in the others.
(function () {
  "use strict";
  let chosen = null;
  try { chosen = localStorage.getItem("theme"); } catch (error) { chosen = null; }
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
})();
