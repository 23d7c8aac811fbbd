// Sparklines of the fleet table: the last hour of each gauge, fetched once the table is there.
(function () {
  "use strict";
  let lines = {}, fetchedAt = 0;

  async function load(force) {
    const table = document.querySelector("table[data-sparklines]");
    if (!table) return;
    if (!force && Date.now() - fetchedAt < 30000) { draw(); return; }
    fetchedAt = Date.now();
    const ids = [...table.querySelectorAll("tr[data-device]")].map(function (row) { return row.dataset.device; });
    if (!ids.length) return;
    const query = new URLSearchParams(ids.map(function (id) { return ["id", id]; }));
    try {
      const answer = await fetch(table.dataset.sparklines + "?" + query);
      if (answer.ok) lines = await answer.json();
    } catch (error) { fetchedAt = 0; }
    draw();
  }

  function draw() {
    const style = getComputedStyle(document.documentElement);
    const colour = style.getPropertyValue("--accent").trim();
    document.querySelectorAll("canvas[data-gauge]").forEach(function (canvas) {
      const all = lines[canvas.closest("tr").dataset.device];
      const values = all ? all[Number(canvas.dataset.gauge)] : null;
      if (values && values.length) line(canvas, values, Number(canvas.dataset.full), colour);
    });
  }

  function line(canvas, values, full, colour) {
    const scale = window.devicePixelRatio || 1, width = canvas.clientWidth, height = canvas.clientHeight;
    canvas.width = width * scale; canvas.height = height * scale;
    const pen = canvas.getContext("2d");
    const top = Math.max(full, ...values.filter(function (value) { return value !== null; }));
    pen.scale(scale, scale);
    pen.strokeStyle = pen.fillStyle = colour;
    pen.lineWidth = 1.4;
    let drawing = false;
    pen.beginPath();
    values.forEach(function (value, place) {
      if (value === null) { drawing = false; return; }
      const x = 1 + place / (values.length - 1) * (width - 2), y = height - 2 - value / top * (height - 4);
      if (drawing) pen.lineTo(x, y); else { pen.moveTo(x, y); pen.lineTo(x + 0.6, y); }
      drawing = true;
    });
    pen.stroke();
  }

  document.addEventListener("servwatch:replaced", function () { load(false); });
  document.addEventListener("servwatch:theme", draw);
  load(true);
})();
