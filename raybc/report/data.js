// The curves of a data set: what is chosen becomes the figure that page.js draws.
(function () {
  "use strict";
  var data = JSON.parse(document.getElementById("curve-data").textContent);
  var plot = document.getElementById("plot-curves");
  var spec = document.getElementById(plot.dataset.spec);
  var keys = document.getElementById("curve-key");
  var episodes = document.getElementById("curve-episode");
  var dimensions = document.getElementById("curve-dimension");
  var caption = document.getElementById("curve-caption");
  var previous = document.getElementById("curve-previous");
  var next = document.getElementById("curve-next");
  var colours = ["#2878d0", "#c9790b", "#2a9d78", "#b0559e", "#c8523b", "#7b76d9", "#8a8420", "#3a9db0"];
  var all = data.episodes.length > 1;

  function fill(select, names) {
    select.replaceChildren.apply(
      select,
      names.map(function (name, i) {
        return new Option(name, i);
      }),
    );
  }

  // Plotly reads markup in the names of traces.
  function plain(text) {
    return text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  }

  function values(episode, key) {
    var bytes = Uint8Array.from(atob(data.episodes[episode].values[key]), function (c) {
      return c.charCodeAt(0);
    });
    var view = new DataView(bytes.buffer);
    var size = data.keys[key].dimensions.length;
    var columns = data.keys[key].dimensions.map(function () {
      return [];
    });
    for (var i = 0; i < bytes.length / 4; i++)
      columns[i % size].push(Number(view.getFloat32(4 * i, true).toPrecision(6)));
    return columns;
  }

  function line(episode, y, name, colour) {
    var stride = data.episodes[episode].stride;
    var x = y.map(function (_, i) {
      return i * stride;
    });
    var hover = "step %{x:,}: %{y:.5~g}<extra>" + plain(name) + "</extra>";
    var mode = y.length > 1 ? "lines" : "markers";
    return {
      type: "scatter",
      x: x,
      y: y,
      name: plain(name),
      mode: mode,
      line: { color: colour, width: 1.6 },
      marker: { color: colour },
      hovertemplate: hover,
    };
  }

  function oneEpisode(episode, key) {
    var names = data.keys[key].dimensions;
    return values(episode, key).map(function (y, d) {
      return line(episode, y, names[d] || data.keys[key].name, colours[d % colours.length]);
    });
  }

  // One dimension of every episode: successes and others in colours of their own.
  function everyEpisode(key, dimension) {
    return data.episodes.map(function (about, episode) {
      var colour = about.success === null ? colours[0] : about.success ? colours[2] : colours[4];
      var trace = line(episode, values(episode, key)[dimension], "episode " + about.number, colour);
      trace.opacity = 0.55;
      trace.line.width = 1.2;
      trace.showlegend = false;
      return trace;
    });
  }

  function show() {
    var key = Number(keys.value);
    var episode = Number(episodes.value) - (all ? 1 : 0);
    var name = data.keys[key].name;
    document.getElementById("curve-dimension-label").hidden = episode >= 0 || data.keys[key].dimensions.length < 2;
    var traces = episode < 0 ? everyEpisode(key, Number(dimensions.value)) : oneEpisode(episode, key);
    var hasOutcome = data.episodes[0].success !== null;
    var stride = episode < 0 ? 1 : data.episodes[episode].stride;
    var text =
      episode < 0
        ? name +
          data.keys[key].dimensions[Number(dimensions.value)] +
          " of " +
          data.episodes.length +
          " episodes" +
          (hasOutcome ? "; " + (data.outcome || "green: success, red: no success") + "." : ".")
        : name + " of " + data.episodes[episode].name + (stride > 1 ? "; one of " + stride + " steps." : ".");
    caption.textContent = text;
    plot.setAttribute("aria-label", "Line chart: " + text);
    var figure = JSON.parse(spec.textContent);
    figure.data = traces;
    figure.layout.showlegend = episode >= 0;
    figure.layout.xaxis = { title: { text: "step", standoff: 10 }, rangemode: "tozero" };
    figure.layout.yaxis = figure.layout.yaxis || {};
    spec.textContent = JSON.stringify(figure);
    previous.disabled = episodes.selectedIndex === 0;
    next.disabled = episodes.selectedIndex === episodes.options.length - 1;
    plot.dispatchEvent(new Event("changed"));
  }

  function chooseKey() {
    fill(dimensions, data.keys[Number(keys.value)].dimensions);
    show();
  }

  function step(by) {
    episodes.selectedIndex += by;
    show();
  }

  var names = data.episodes.map(function (episode) {
    return episode.name;
  });
  fill(
    keys,
    data.keys.map(function (key) {
      return key.name;
    }),
  );
  fill(episodes, all ? ["all " + names.length + " together"].concat(names) : names);
  episodes.selectedIndex = all ? 1 : 0;
  chooseKey();
  keys.addEventListener("change", chooseKey);
  episodes.addEventListener("change", show);
  dimensions.addEventListener("change", show);
  previous.addEventListener("click", function () {
    step(-1);
  });
  next.addEventListener("click", function () {
    step(1);
  });
})();
