// Asks for the data of the first charts before the rest of the page is there; charts.js takes the answer.
(function () {
  "use strict";
  if (window.firstChart !== undefined) return; // charts.js was here before
  window.firstChart = fetch(document.currentScript.dataset.url, { redirect: "error" });
  window.firstChart.catch(function () {}); // charts.js tells of it
})();
