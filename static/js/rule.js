// The form of an event: suggestions follow the channel, the back-test comes without leaving the page.
(function () {
  "use strict";
  const form = document.getElementById("rule");
  const out = document.getElementById("backtest");
  const button = document.getElementById("try");
  const suggestions = document.getElementById("suggestions");
  if (!form || !out || !button) return;
  let asked = 0, timer = null;

  async function tryIt(seen, action) {
    const turn = asked += 1;
    const body = new FormData(form);
    body.set("action", action || "backtest");
    button.disabled = true;
    if (action) out.setAttribute("aria-busy", "true");
    try {
      const answer = await fetch(location.href, { method: "POST", body: body, headers: { "X-Requested-With": "fetch" }, redirect: "error" });
      if (!answer.ok) throw new Error(String(answer.status));
      const html = await answer.text();
      if (turn !== asked) return;
      out.replaceChildren(...new DOMParser().parseFromString(html, "text/html").body.childNodes);
      const charts = out.querySelector("#charts");
      if (charts) document.dispatchEvent(new CustomEvent("servwatch:charts", { detail: charts }));
      if (seen) out.scrollIntoView({ block: "nearest" });
    } catch (error) {
      if (turn === asked) out.textContent = out.dataset.failed;
    } finally {
      if (turn === asked) { button.disabled = false; out.removeAttribute("aria-busy"); }
    }
  }

  button.addEventListener("click", function (event) {
    event.preventDefault();
    tryIt(true);
  });

  out.addEventListener("click", function (event) {
    const more = event.target.closest("button[value=backtest-in-full]");
    if (!more) return;
    event.preventDefault();
    more.disabled = true;
    tryIt(true, more.value);
  });

  // Once tried, the result follows what is changed.
  form.addEventListener("change", function (event) {
    if (event.target.name === "channel") suggest();
    if (!out.firstElementChild) return;
    clearTimeout(timer);
    timer = setTimeout(function () { tryIt(false); }, 400);
  });

  async function suggest() {
    try {
      const answer = await fetch(form.dataset.keys + "?channel=" + encodeURIComponent(form.elements.channel.value), { redirect: "error" });
      if (answer.ok) suggestions.innerHTML = await answer.text();
    } catch (error) { /* typing works without suggestions */ }
  }
})();
