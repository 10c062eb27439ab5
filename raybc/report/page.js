(function () {
  "use strict";
  var plots = Array.prototype.slice.call(document.querySelectorAll(".plot"));
  function colour(name) {
    return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  }
  function theme() {
    var ink = colour("--ink");
    var soft = colour("--soft");
    var grid = colour("--grid");
    var line = colour("--line");
    return {
      "font.color": soft,
      "font.family": getComputedStyle(document.body).fontFamily,
      "font.size": 12,
      "xaxis.gridcolor": grid,
      "yaxis.gridcolor": grid,
      "xaxis.linecolor": line,
      "yaxis.linecolor": line,
      "xaxis.title.font.color": ink,
      "yaxis.title.font.color": ink,
      "legend.font.color": ink,
      "hoverlabel.bgcolor": colour("--card"),
      "hoverlabel.bordercolor": line,
      "hoverlabel.font.color": ink,
    };
  }
  function set(target, path, value) {
    var keys = path.split(".");
    var last = keys.pop();
    keys.forEach(function (key) {
      target = target[key] = target[key] || {};
    });
    target[last] = value;
  }
  // A figure is drawn when it comes near the screen, so that a page with many opens at once; on paper all are.
  // It is drawn again for another width: a legend that wrapped once keeps its place otherwise.
  var drawn = [];
  function draw(plot, width) {
    if (drawn.indexOf(plot) < 0) drawn.push(plot);
    var spec = JSON.parse(document.getElementById(plot.dataset.spec).textContent);
    var now = theme();
    Object.keys(now).forEach(function (path) {
      set(spec.layout, path, now[path]);
    });
    if (width) spec.layout.width = width;
    plot.dataset.width = plot.clientWidth;
    Plotly.newPlot(plot, spec.data, spec.layout, { responsive: true, displayModeBar: false });
  }
  function redraw() {
    drawn.forEach(function (plot) {
      draw(plot);
    });
  }
  var near = new IntersectionObserver(
    function (entries) {
      entries.forEach(function (entry) {
        if (entry.isIntersecting) {
          near.unobserve(entry.target);
          queue.push(entry.target);
        }
      });
      if (queue.length && !busy) {
        busy = true;
        next();
      }
    },
    { rootMargin: "300px" },
  );
  var queue = [];
  var busy = false;
  function next() {
    // one a frame: the page answers in between
    requestAnimationFrame(function () {
      var plot = queue.shift();
      if (drawn.indexOf(plot) < 0) draw(plot);
      busy = queue.length > 0;
      if (busy) setTimeout(next);
    });
  }
  plots.forEach(function (plot) {
    near.observe(plot);
    plot.addEventListener("changed", function () {
      if (drawn.indexOf(plot) >= 0) draw(plot); // others are drawn when they come near
    });
  });
  var pause;
  addEventListener("resize", function () {
    clearTimeout(pause);
    pause = setTimeout(function () {
      if (
        drawn.some(function (plot) {
          return Math.abs(plot.dataset.width - plot.clientWidth) > 60;
        })
      )
        redraw();
    }, 250);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  var open = [];
  addEventListener("beforeprint", function () {
    document.documentElement.dataset.print = "";
    open = Array.prototype.slice.call(document.querySelectorAll("details:not([open])"));
    open.forEach(function (part) {
      part.open = true;
    });
    plots.forEach(function (plot) {
      draw(plot, Math.min(plot.clientWidth, 640));
    });
  });
  addEventListener("afterprint", function () {
    delete document.documentElement.dataset.print;
    open.forEach(function (part) {
      part.open = false;
    });
    redraw();
  });
})();
