(function () {
  "use strict";
  var figures = JSON.parse(document.getElementById("figures").textContent);
  var places = Array.prototype.slice.call(document.querySelectorAll("[data-figure]"));
  var narrow = window.matchMedia("(max-width: 40rem)").matches;
  var paper = { width: 318, height: 240, high: 340 }; // px of a chart on paper, two columns

  // The page is read before the chart library is: it starts after the first paint.
  function startPlotly() {
    if (window.Plotly) { return; }
    var script = document.createElement("script");
    script.textContent = document.getElementById("plotly").textContent;
    document.body.appendChild(script);
  }
  function draw(place) {
    if (place.dataset.drawn) { return; }
    startPlotly();
    place.dataset.drawn = "true";
    var figure = figures[place.dataset.figure];
    if (narrow && figure.layout.xaxis) { figure.layout.margin.l = 34; figure.layout.margin.r = 4; }
    var names = figure.layout.legend;
    place.legend = { size: names.font ? names.font.size : 12, width: names.entrywidth };
    Plotly.newPlot(place, figure.data, figure.layout, { displayModeBar: false, responsive: true });
  }
  function drawRest() {
    var next = places.find(function (place) { return !place.dataset.drawn; });
    if (!next) { document.documentElement.dataset.drawn = "true"; return; }
    draw(next);
    window.setTimeout(drawRest, 30);
  }
  // Charts on the screen first, so that the page is there at once; the others while the reader reads.
  var observer = new IntersectionObserver(function (entries) {
    entries.forEach(function (entry) { if (entry.isIntersecting) { draw(entry.target); } });
  }, { rootMargin: "300px" });
  function start() {
    places.forEach(function (place) { observer.observe(place); });
    window.setTimeout(drawRest, 1000);
  }
  document.documentElement.dataset.ready = "true";
  window.requestAnimationFrame(function () { window.setTimeout(start, 0); });

  document.querySelectorAll("[data-meshes] input").forEach(function (input) {
    input.addEventListener("change", function () {
      var place = document.querySelector('[data-figure="mesh"]');
      var shown = place.data.map(function (_, index) { return Math.floor(index / 2) === Number(input.value); });
      Plotly.restyle(place, { visible: shown, showlegend: shown });
    });
  });
  function flat(place) { return place.dataset.figure !== "mesh"; }
  // Smaller names in legends, so that they stand in two columns on paper, too.
  function legend(place, size) {
    var change = { "legend.font.size": place.legend.size * size };
    if (place.legend.width) { change["legend.entrywidth"] = place.legend.width * size; }
    return change;
  }
  window.addEventListener("beforeprint", function () {
    document.querySelectorAll("details").forEach(function (part) { part.open = true; });
    places.forEach(draw);
    places.filter(flat).forEach(function (place) {
      var height = place.classList.contains("high") ? paper.high : paper.height;
      var change = { autosize: false, width: paper.width, height: height };
      Plotly.relayout(place, Object.assign(change, legend(place, 0.8)));
    });
  });
  window.addEventListener("afterprint", function () {
    places.filter(flat).forEach(function (place) {
      Plotly.relayout(place, Object.assign({ autosize: true, width: null, height: null }, legend(place, 1)));
    });
  });
})();
