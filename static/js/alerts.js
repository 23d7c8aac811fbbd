// The list of alerts by keyboard: j and k move, Enter opens, a acknowledges, x ticks, ? shows the keys.
(function () {
  "use strict";
  const box = document.getElementById("alerts");
  const hint = document.getElementById("keys");
  if (!box) return;
  let current = null; // the id of the row that was reached last; rows come and go

  function rows() { return [...box.querySelectorAll("tr[data-alert]")]; }

  function go(step) {
    const all = rows();
    if (!all.length) return;
    const place = all.findIndex(function (row) { return row.dataset.alert === current; });
    const next = all[place < 0 ? (step > 0 ? 0 : all.length - 1) : Math.min(all.length - 1, Math.max(0, place + step))];
    current = next.dataset.alert;
    next.focus();
    next.scrollIntoView({ block: "nearest" });
  }

  function here() { return rows().find(function (row) { return row.dataset.alert === current; }) || null; }

  const acts = {
    j: function () { go(1); },
    k: function () { go(-1); },
    x: function () { const tick = here() && here().querySelector("input[type=checkbox]"); if (tick) tick.click(); },
    a: function () { const button = here() && here().querySelector("[data-deed=acknowledge]"); if (button) button.click(); },
    "?": function () { if (hint) hint.open = !hint.open; },
    Enter: function () { const link = here() && here().querySelector("a.name"); if (link) link.click(); },
  };

  document.addEventListener("focusin", function (event) {
    const row = event.target.closest && event.target.closest("tr[data-alert]");
    if (row) current = row.dataset.alert;
  });
  document.addEventListener("keydown", function (event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    const at = event.target;
    if (at.closest("input:not([type=checkbox]), select, textarea")) return;
    if (event.key === "Enter" && !at.matches("tr[data-alert]")) return; // links and buttons have their own
    const act = acts[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  });
})();
