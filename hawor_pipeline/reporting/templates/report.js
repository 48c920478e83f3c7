(function () {
  "use strict";
  var figures = JSON.parse(document.getElementById("figures").textContent);
  var options = { displayModeBar: false, responsive: true };
  var narrow = window.matchMedia("(max-width: 40rem)").matches;
  document.querySelectorAll("[data-figure]").forEach(function (place) {
    var figure = figures[place.dataset.figure];
    if (narrow && figure.layout.xaxis) { figure.layout.margin.l = 34; figure.layout.margin.r = 4; }
    Plotly.newPlot(place, figure.data, figure.layout, options);
  });
  document.querySelectorAll("[data-meshes] input").forEach(function (input) {
    input.addEventListener("change", function () {
      var place = document.querySelector('[data-figure="mesh"]');
      var shown = place.data.map(function (_, index) { return Math.floor(index / 2) === Number(input.value); });
      Plotly.restyle(place, { visible: shown, showlegend: shown });
    });
  });
  window.addEventListener("beforeprint", function () {
    document.querySelectorAll("details").forEach(function (part) { part.open = true; });
    document.querySelectorAll("[data-figure]").forEach(function (place) { Plotly.Plots.resize(place); });
  });
  document.documentElement.dataset.ready = "true";
})();
