// The charts of a page: one request for all, uPlot for each, one crosshair and one zoom for all of them.
(function () {
  "use strict";
  if (!window.uPlot) return;
  const first = document.getElementById("charts");
  if (first) start(first);
  // A fragment that holds charts has come into the page.
  document.addEventListener("servwatch:charts", function (event) { start(event.detail); });

  function start(box) {
    const zone = box.dataset.zone;
    const sync = uPlot.sync("servwatch");
    const sections = [...box.querySelectorAll(".chart")];
    const base = { start: Number(box.dataset.start), end: Number(box.dataset.end) };
    const span = base.end - base.start;
    const sliding = box.dataset.sliding === "1";
    const whole = "whole" in box.dataset; // its thresholds are shown wherever they lie
    const given = box.dataset.marks ? JSON.parse(box.dataset.marks) : null; // else they come with the data
    let zoom = null, busy = false, again = false, lastAt = 0, timer = null;

    const charts = sections.map(function (section) {
      const lines = [...section.querySelectorAll(".line")].map(function (one) {
        return { key: one.dataset.key, label: one.dataset.label };
      });
      return { section: section, lines: lines, unit: section.dataset.unit, plot: null, data: null, periods: [], thresholds: [] };
    });

    function colour(name) { return getComputedStyle(document.documentElement).getPropertyValue(name).trim(); }

    const POWERS = Array.from({ length: 60 }, function (_, power) { return 2 ** power; });
    const BINARY = ["", "Ki", "Mi", "Gi", "Ti", "Pi"];
    function shown(value, unit) {
      if (value === null || value === undefined) return "–";
      let power = 0;
      if (unit === "B" || unit === "B/s") {
        while (Math.abs(value) >= 1024 && power < 5) { value /= 1024; power += 1; }
      }
      const text = Number.isInteger(value) ? value.toLocaleString() : value.toLocaleString(undefined, { maximumSignificantDigits: 4 });
      return text + (unit ? " " + BINARY[power] + unit : "");
    }

    function inZone(seconds, parts) {
      return new Intl.DateTimeFormat(document.documentElement.lang || "en", Object.assign({ timeZone: zone }, parts)).format(new Date(seconds * 1000));
    }

    function time(seconds) {
      return inZone(seconds, { year: "numeric", month: "2-digit", day: "2-digit", hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
    }

    function window_() {
      if (zoom) return zoom;
      if (!sliding) return base;
      const end = Date.now() / 1000;
      return { start: end - span, end: end };
    }

    function address() {
      const shownNow = window_();
      const query = new URLSearchParams();
      charts.forEach(function (chart) { chart.lines.forEach(function (line) { query.append("key", line.key); }); });
      if (!zoom && sliding) new URLSearchParams(box.dataset.query).forEach(function (value, name) { query.set(name, value); });
      else {
        query.set("from", new Date(shownNow.start * 1000).toISOString());
        query.set("to", new Date(shownNow.end * 1000).toISOString());
      }
      return box.dataset.url + "?" + query;
    }

    async function load() {
      if (!box.isConnected) return;
      if (busy) { again = true; return; }
      busy = true;
      lastAt = Date.now();
      try {
        const first = window.firstChart; // static/js/first-chart.js
        window.firstChart = null;
        const answer = await (first || fetch(address(), { redirect: "error" }));
        if (!answer.ok) throw new Error(String(answer.status));
        draw(await answer.json());
      } catch (error) {
        charts.forEach(function (chart) { chart.section.querySelector(".resolution").textContent = box.dataset.failed; });
        timer = setTimeout(function () { timer = null; load(); }, 5000);
      }
      busy = false;
      if (again) { again = false; load(); }
    }

    function spread(data) {
      // A gap is a gap: between two times that lie further apart than usual stands a point without value.
      const times = data.times;
      if (times.length < 3) return { times: times, at: times.map(function (_, place) { return place; }) };
      const steps = times.slice(1).map(function (time_, place) { return time_ - times[place]; }).sort(function (a, b) { return a - b; });
      const usual = data.step_s || steps[Math.floor(steps.length / 2)];
      const out = [], at = [];
      times.forEach(function (time_, place) {
        if (place && time_ - times[place - 1] > Math.max(usual * 3, 1)) { out.push(times[place - 1] + usual); at.push(-1); }
        out.push(time_); at.push(place);
      });
      return { times: out, at: at };
    }

    function draw(data) {
      const places = spread(data);
      const source = { minute: box.dataset.minute, hour: box.dataset.hour }[data.resolution];
      const resolution = data.step_s ? box.dataset.average + " " + length(data.step_s) + (source ? " · " + source : "") : box.dataset.raw;
      charts.forEach(function (chart) {
        const band = data.step_s > 0 && chart.lines.length <= 3;
        const columns = [places.times];
        const pick = function (values) { return places.at.map(function (place) { return place < 0 ? null : values[place]; }); };
        chart.lines.forEach(function (line) {
          const one = data.series[line.key] || { avg: [], min: [], max: [] };
          columns.push(pick(one.avg));
          if (band) columns.push(pick(one.min), pick(one.max));
        });
        const any = columns.slice(1).some(function (column) { return column.some(function (value) { return value !== null && value !== undefined; }); });
        chart.section.querySelector(".resolution").textContent = any ? resolution : box.dataset.empty;
        chart.data = columns;
        chart.band = band;
        mark(chart, given || data);
        paint(chart);
        const details = chart.section.querySelector("details");
        if (details.open) table(chart);
      });
    }

    // --- thresholds and alert periods ---
    const WORSE = { info: 0, warning: 1, critical: 2 };

    function mark(chart, marks) {
      const keys = new Set(chart.lines.map(function (line) { return line.key; }));
      const mine = function (one) { return keys.has(one.key); };
      chart.periods = (marks.periods || []).filter(mine).sort(function (a, b) { return WORSE[a.severity] - WORSE[b.severity]; });
      chart.thresholds = (marks.thresholds || []).filter(mine).filter(function (one, place, all) {
        return all.findIndex(function (other) { return other.value === one.value && other.severity === one.severity; }) === place;
      });
      const out = chart.section.querySelector(".marks");
      if (!out) return;
      const SIGNS = { "<=": "≤", ">=": "≥", "!=": "≠" };
      const words = chart.thresholds.slice(0, 4).map(function (one) { return box.dataset.threshold + " " + (SIGNS[one.operator] || one.operator) + " " + shown(one.value, chart.unit); });
      if (chart.periods.length) words.push(box.dataset.alerts + ": " + chart.periods.length);
      out.textContent = words.join(" · ");
      out.hidden = !words.length;
    }

    function hue(severity) { return colour({ critical: "--bad", warning: "--warn" }[severity] || "--accent"); }

    function drawPeriods(plot, chart) {
      const pen = plot.ctx, area = plot.bbox, scale = window.devicePixelRatio || 1;
      chart.periods.forEach(function (one) {
        const end = one.end === null ? Date.now() / 1000 : one.end;
        const left = Math.max(area.left, plot.valToPos(one.start, "x", true));
        const right = Math.min(area.left + area.width, Math.max(plot.valToPos(end, "x", true), left + 2 * scale));
        if (right <= area.left || left >= area.left + area.width) return;
        pen.save();
        pen.fillStyle = hue(one.severity) + "26";
        pen.fillRect(left, area.top, right - left, area.height);
        pen.fillStyle = hue(one.severity);
        pen.fillRect(left, area.top, right - left, 3 * scale);
        pen.restore();
      });
    }

    function drawThresholds(plot, chart) {
      const pen = plot.ctx, area = plot.bbox, scale = window.devicePixelRatio || 1;
      const line = function (value, stroke, dash) {
        const y = plot.valToPos(value, "y", true);
        if (!(y >= area.top - 1 && y <= area.top + area.height + 1)) return;
        pen.strokeStyle = stroke;
        pen.lineWidth = 1.4 * scale;
        pen.setLineDash(dash.map(function (part) { return part * scale; }));
        pen.beginPath();
        pen.moveTo(area.left, y);
        pen.lineTo(area.left + area.width, y);
        pen.stroke();
      };
      pen.save();
      chart.thresholds.forEach(function (one) {
        line(one.value, hue(one.severity), [6, 4]);
        if (one.clear !== null && one.clear !== undefined) line(one.clear, hue(one.severity), [1, 4]);
      });
      pen.restore();
    }

    function length(seconds) {
      if (seconds % 86400 === 0) return seconds / 86400 + " d";
      if (seconds % 3600 === 0) return seconds / 3600 + " h";
      if (seconds % 60 === 0) return seconds / 60 + " min";
      return seconds + " s";
    }

    function paint(chart) {
      const shownNow = window_();
      if (chart.plot && chart.plot.bandMode === chart.band) {
        chart.plot.setData(chart.data, false);
        chart.plot.setScale("x", { min: shownNow.start, max: shownNow.end });
        return;
      }
      if (chart.plot) chart.plot.destroy();
      const target = chart.section.querySelector(".plot");
      chart.plot = new uPlot(options(chart, target.clientWidth || 400), chart.data, target);
      chart.plot.bandMode = chart.band;
      chart.plot.setScale("x", { min: shownNow.start, max: shownNow.end });
    }

    function options(chart, width) {
      const series = [{ label: box.dataset.time, value: function (_, seconds) { return seconds === null ? "–" : time(seconds); } }], bands = [];
      chart.lines.forEach(function (line, place) {
        const stroke = colour("--c" + (place % 8 + 1));
        series.push({ label: line.label, stroke: stroke, width: 1.6, points: { show: false, size: 5 }, spanGaps: false, value: function (_, value) { return shown(value, chart.unit); } });
        if (chart.band) {
          const first = series.length;
          series.push({ label: line.label + " min", class: "band", stroke: stroke + "55", width: 0.6, points: { show: false }, value: function (_, value) { return shown(value, chart.unit); } });
          series.push({ label: line.label + " max", class: "band", stroke: stroke + "55", width: 0.6, points: { show: false }, value: function (_, value) { return shown(value, chart.unit); } });
          bands.push({ series: [first + 1, first], fill: stroke + "22" });
        }
      });
      const axis = { stroke: colour("--dim"), grid: { stroke: colour("--faint"), width: 1 }, ticks: { stroke: colour("--line"), width: 1 }, font: "12px " + getComputedStyle(document.body).fontFamily };
      return {
        width: width, height: 200, series: series, bands: bands,
        cursor: { sync: { key: sync.key, setSeries: false }, drag: { x: true, y: false, setScale: false }, focus: { prox: 24 } },
        focus: { alpha: 0.35 },
        scales: { x: { time: true }, y: { range: range(chart) } },
        tzDate: function (seconds) { return uPlot.tzDate(new Date(seconds * 1000), zone); },
        axes: [Object.assign({}, axis, { values: ticks }), Object.assign({}, axis, { size: 84, incrs: chart.unit === "B" || chart.unit === "B/s" ? POWERS : undefined, values: function (_, values) { return values.map(function (value) { return shown(value, chart.unit === "B" || chart.unit === "B/s" ? chart.unit : ""); }); } })],
        hooks: { drawClear: [function (plot) { drawPeriods(plot, chart); }], draw: [function (plot) { drawThresholds(plot, chart); }], setSelect: [function (plot) { chosen(plot); }], ready: [function (plot) { keys(plot, chart); }] },
      };
    }

    function range(chart) {
      return function (_, low, high) {
        if (low === null || high === null) return [0, 1];
        const spread_ = high - low || Math.abs(high) || 1;
        chart.thresholds.forEach(function (one) { // a level far away would press the line flat
          if (whole || (one.value > low - spread_ && one.value < high + spread_)) { low = Math.min(low, one.value); high = Math.max(high, one.value); }
        });
        if (chart.unit === "%") return [0, Math.max(100, high)];
        if (low === high) { const room = Math.abs(low) * 0.1 || 1; return [low - room, high + room]; }
        const room = (high - low) * 0.08;
        return [low >= 0 && low - room < 0 ? 0 : low - room, high + room];
      };
    }

    function ticks(plot, splits) {
      const width = plot.scales.x.max - plot.scales.x.min;
      let day = "";
      return splits.map(function (seconds) {
        const today = inZone(seconds, { month: "2-digit", day: "2-digit" });
        const clock = inZone(seconds, { hour: "2-digit", minute: "2-digit", second: width < 300 ? "2-digit" : undefined, hourCycle: "h23" });
        const first = today !== day;
        day = today;
        return width > 3 * 86400 ? today + (clock === "00:00" ? "" : "\n" + clock) : first ? clock + "\n" + today : clock;
      });
    }

    function chosen(plot) {
      if (plot.select.width < 4) return;
      const start = plot.posToVal(plot.select.left, "x"), end = plot.posToVal(plot.select.left + plot.select.width, "x");
      plot.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
      show(start, end);
    }

    function show(start, end) {
      if (end - start < 1) return;
      zoom = { start: start, end: end };
      remember();
      load();
    }

    function back() {
      zoom = null;
      remember();
      load();
    }

    function remember() {
      if (given) return; // the address belongs to the form around it
      const here = new URL(location.href);
      ["range", "from", "to"].forEach(function (name) { here.searchParams.delete(name); });
      if (zoom) {
        here.searchParams.set("from", new Date(zoom.start * 1000).toISOString().slice(0, 19) + "Z");
        here.searchParams.set("to", new Date(zoom.end * 1000).toISOString().slice(0, 19) + "Z");
      } else new URLSearchParams(box.dataset.query).forEach(function (value, name) { here.searchParams.set(name, value); });
      history.replaceState(null, "", here);
    }

    function keys(plot, chart) {
      plot.over.addEventListener("dblclick", back);
      const target = chart.section.querySelector(".plot");
      if (target.dataset.keys) return;
      target.dataset.keys = "1";
      target.addEventListener("keydown", function (event) {
        const now = window_(), width = now.end - now.start, middle = (now.start + now.end) / 2;
        const act = {
          ArrowLeft: function () { show(now.start - width / 4, now.end - width / 4); },
          ArrowRight: function () { show(now.start + width / 4, now.end + width / 4); },
          "+": function () { show(middle - width / 4, middle + width / 4); },
          "=": function () { show(middle - width / 4, middle + width / 4); },
          "-": function () { show(middle - width, middle + width); },
          "0": back, Escape: back,
        }[event.key];
        if (act && !event.ctrlKey && !event.metaKey) { event.preventDefault(); act(); }
      });
    }

    function table(chart) {
      const out = document.createElement("table"), head = out.createTHead().insertRow();
      const cell = function (row, tag, text) { const one = document.createElement(tag); one.textContent = text; row.append(one); };
      cell(head, "th", "");
      chart.lines.forEach(function (line) { cell(head, "th", line.label); });
      const rows = out.createTBody(), step = chart.band ? 3 : 1, times = chart.data[0];
      for (let place = times.length - 1; place >= Math.max(0, times.length - 200); place -= 1) {
        const row = rows.insertRow();
        cell(row, "td", time(times[place]));
        chart.lines.forEach(function (_, number) { cell(row, "td", shown(chart.data[1 + number * step][place], chart.unit)); });
      }
      chart.section.querySelector(".table").replaceChildren(out);
    }

    charts.forEach(function (chart) {
      chart.section.querySelector("details").addEventListener("toggle", function (event) {
        if (event.target.open && chart.data) table(chart);
      });
    });
    document.addEventListener("servwatch:changed", function () {
      if (!box.isConnected || zoom || !sliding || timer) return;
      timer = setTimeout(function () { timer = null; load(); }, Math.max(0, 700 - (Date.now() - lastAt)));
    });
    document.addEventListener("servwatch:theme", function () {
      if (!box.isConnected) return;
      charts.forEach(function (chart) { if (chart.plot) { chart.plot.destroy(); chart.plot = null; } if (chart.data) paint(chart); });
    });
    new ResizeObserver(function () {
      charts.forEach(function (chart) {
        const width = chart.section.querySelector(".plot").clientWidth;
        if (chart.plot && width && Math.abs(width - chart.plot.width) > 1) chart.plot.setSize({ width: width, height: 200 });
      });
    }).observe(box);
    load();
  }
})();
