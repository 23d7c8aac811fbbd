// On every page: the live connection, the fragment it refreshes, copy buttons, the choice of colours.
(function () {
  "use strict";
  const body = document.body;
  const light = document.getElementById("live");

  // --- live ---
  const wanted = [];
  if (body.dataset.watchDevice) wanted.push("device:" + body.dataset.watchDevice);
  if (body.dataset.watchChannel) wanted.push("channel:" + body.dataset.watchChannel);
  if ("watchAccount" in body.dataset) wanted.push("account");
  const watching = wanted.length > 0;
  const fragments = body.dataset.refresh ? [...document.querySelectorAll(body.dataset.refresh)] : [];
  const told = new Map(); // fragment -> what it shows
  let socket = null, tries = 0, poll = null, missed = false, busy = false, again = false, lastAt = 0, waiting = null, countedAt = 0;

  function show(state) {
    if (!light || !watching) return;
    light.textContent = light.dataset[state];
    light.className = "live " + (state === "live" ? "on" : state === "reconnecting" ? "off" : "");
  }

  function changed() {
    if (document.hidden) { missed = true; return; }
    document.dispatchEvent(new CustomEvent("servwatch:changed"));
    if (waiting) return;
    waiting = setTimeout(function () { waiting = null; refresh(); }, Math.max(0, 500 - (Date.now() - lastAt)));
  }

  async function refresh() {
    if (!fragments.length) return;
    if (busy) { again = true; return; }
    busy = true;
    lastAt = Date.now();
    try {
      for (const fragment of fragments) {
        const address = new URL(body.dataset.address || location.href, location.href);
        address.searchParams.set("fragment", fragment.id);
        const answer = await fetch(address, { headers: { "X-Requested-With": "fetch" }, redirect: "error" });
        if (answer.ok) replace(fragment, await answer.text());
      }
    } catch (error) { /* the next change or poll tries again */ }
    busy = false;
    if (again) { again = false; changed(); }
  }

  function replace(fragment, html) {
    if (fragment.querySelector("input:checked")) return; // somebody is choosing: do not take it from under them
    if (told.get(fragment) === html) return; // nothing new: readers of the screen need not hear it again
    told.set(fragment, html);
    const open = [...fragment.querySelectorAll("details")].map(function (one) { return one.open; });
    const openById = new Set([...fragment.querySelectorAll("details[id][open]")].map(function (one) { return one.id; }));
    const active = fragment.contains(document.activeElement) ? document.activeElement : null;
    const focusedId = active ? active.id || (active.tagName === "SUMMARY" && active.parentElement.id) : null;
    const focused = active && !focusedId ? active.getAttribute("href") : null;
    const parsed = new DOMParser().parseFromString(html, "text/html");
    fragment.replaceChildren(...parsed.body.childNodes);
    fragment.querySelectorAll("details").forEach(function (one, place) { if (one.id ? openById.has(one.id) : open[place]) one.open = true; });
    const again_ = focusedId ? document.getElementById(focusedId) : null;
    if (again_) (again_.tagName === "DETAILS" ? again_.querySelector("summary") : again_).focus({ preventScroll: true });
    if (focused) {
      const back = [...fragment.querySelectorAll("a")].find(function (a) { return a.getAttribute("href") === focused; });
      if (back) back.focus({ preventScroll: true });
    }
    document.dispatchEvent(new CustomEvent("servwatch:replaced"));
  }

  function connect() {
    socket = new WebSocket((location.protocol === "https:" ? "wss://" : "ws://") + location.host + "/live/");
    socket.onopen = function () { socket.send(JSON.stringify({ subscribe: wanted })); };
    socket.onmessage = function (event) {
      const told = JSON.parse(event.data);
      if (told.subscribed) {
        // What changed between drawing the page and watching it; on a page that has just come its charts go first.
        if (tries) changed(); else setTimeout(refresh, 1000);
        tries = 0;
        clearInterval(poll); poll = null;
        show(document.hidden ? "paused" : "live");
      } else if (told.changed) changed();
    };
    socket.onclose = function (event) {
      if (event.code === 4401) { location.reload(); return; }
      tries += 1;
      show("reconnecting");
      if (!poll) poll = setInterval(changed, 5000);
      setTimeout(connect, Math.min(10000, 500 * 2 ** Math.min(tries, 5)) * (0.75 + Math.random() / 2));
    };
  }

  if (watching) {
    connect();
    // Ages and silence change without any message: look again now and then.
    setInterval(function () { if (!document.hidden) refresh(); }, 10000);
    document.addEventListener("visibilitychange", function () {
      if (document.hidden) { if (socket && socket.readyState === 1) show("paused"); return; }
      if (socket && socket.readyState === 1) show("live");
      if (missed) { missed = false; changed(); }
    });
  }

  // --- pages that nobody wakes, such as the delivery log: look again every so often ---
  if (body.dataset.every && fragments.length) setInterval(function () { if (!document.hidden) refresh(); }, Number(body.dataset.every));

  // --- what every page shows: how far the listeners are, and how many alerts are open ---
  async function look(element) {
    try {
      const answer = await fetch(element.dataset.address, { headers: { "X-Requested-With": "fetch" }, redirect: "error" });
      if (!answer.ok) return;
      const html = await answer.text();
      if (html.trim() !== element.innerHTML.trim()) element.innerHTML = html;
    } catch (error) { /* the next look tells */ }
  }
  const everywhere = ["state", "open-alerts"].map(function (id) { return document.getElementById(id); }).filter(Boolean);
  setInterval(function () { if (!document.hidden) everywhere.forEach(look); }, 5000);
  document.addEventListener("servwatch:replaced", function () {
    const count = document.getElementById("open-alerts");
    if (count && Date.now() - countedAt > 2000) { countedAt = Date.now(); look(count); }
  });

  // --- copy ---
  document.querySelectorAll(".copy").forEach(function (box) {
    if (!navigator.clipboard) return;
    const button = document.createElement("button");
    const words = document.getElementById("content").dataset;
    button.type = "button"; button.className = "plain"; button.textContent = words.copy;
    button.addEventListener("click", async function () {
      await navigator.clipboard.writeText(box.querySelector("pre").textContent);
      button.textContent = words.copied;
      setTimeout(function () { button.textContent = words.copy; }, 1500);
    });
    box.append(button);
  });

  // --- colours ---
  const theme = document.getElementById("theme");
  if (theme) {
    const order = ["auto", "light", "dark"];
    const now = function () { return document.documentElement.dataset.theme || "auto"; };
    const say = function () { theme.textContent = theme.dataset[now()]; };
    theme.hidden = false;
    say();
    theme.addEventListener("click", function () {
      const next = order[(order.indexOf(now()) + 1) % 3];
      if (next === "auto") delete document.documentElement.dataset.theme; else document.documentElement.dataset.theme = next;
      try { localStorage.setItem("theme", next); } catch (error) { /* private windows forget it */ }
      say();
      document.dispatchEvent(new CustomEvent("servwatch:theme"));
    });
  }
})();
