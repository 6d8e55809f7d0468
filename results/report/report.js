// Order and filter of the table, details under a row, and plots of the visible rows.
"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const data = JSON.parse($("data").textContent);
  const body = $("table").tBodies[0];
  const headings = [...$("table").tHead.rows[0].cells];
  let lines = [...body.rows];
  const opened = new Map(); // maps a line to its details line
  const rowOf = (line) => data.rows[line.dataset.row];
  const searched = (line) => `${line.textContent} ${rowOf(line).keys}`.toLowerCase(); // `secure_sum=secagg` is found, too
  const texts = new Map(lines.map((line) => [line, searched(line)]));
  const shown = () => lines.filter((line) => !line.hidden).map(rowOf);

  function make(tag, children, attributes = {}) {
    const element = Object.assign(document.createElement(tag), attributes);
    element.append(...[children ?? "–"].flat());
    return element;
  }

  // ---- order and filter
  const collator = new Intl.Collator("en", { numeric: true });
  function compare(place, numeric, sign) {
    return (a, b) => {
      const [x, y] = [a.cells[place], b.cells[place]];
      if (!numeric) return sign * collator.compare(x.textContent, y.textContent);
      const [v, w] = [x.dataset.value, y.dataset.value];
      if (v === "" || w === "") return (v === "") - (w === ""); // unmeasured values come last
      return sign * (Number(v) - Number(w));
    };
  }

  function sortBy(heading) {
    const ascending = heading.getAttribute("aria-sort") !== "ascending";
    headings.forEach((other) => other.removeAttribute("aria-sort"));
    heading.setAttribute("aria-sort", ascending ? "ascending" : "descending");
    lines.sort(compare(headings.indexOf(heading), heading.className === "number", ascending ? 1 : -1));
    body.append(...lines.flatMap((line) => (opened.has(line) ? [line, opened.get(line)] : [line])));
    draw();
  }

  function filter() {
    const words = $("filter").value.toLowerCase().split(/\s+/);
    for (const line of lines) {
      line.hidden = !words.every((word) => texts.get(line).includes(word));
      if (opened.has(line)) opened.get(line).hidden = line.hidden;
    }
    const left = shown().length;
    $("count").textContent = `${left === lines.length ? "" : `${left} of `}${lines.length} configurations`;
    draw();
  }

  // ---- details under a row
  function details(row) {
    const parts = [];
    const cards = [...new Set(row.runs.map((run) => run.card))];
    for (const card of cards) {
      const seeds = row.runs.filter((run) => run.card === card).map((run) => run.seed);
      parts.push(make("h3", `Threat card${cards.length > 1 ? `, seed ${seeds.join(", ")}` : ""}`));
      parts.push(make("ul", data.cards[card].map((topic) => make("li", topic)), { className: "card" }));
    }
    parts.push(make("h3", "Provenance"), provenance(row.runs));
    for (const place of new Set(row.runs.map((run) => run.environment))) {
      const seeds = row.runs.filter((run) => run.environment === place).map((run) => run.seed);
      const text = JSON.stringify(data.environments[place], null, 1).replace(/^[{}]\n?|^ /gm, "");
      parts.push(make("details", [make("summary", `environment of seed ${seeds.join(", ")}`), make("pre", text)]));
    }
    parts.push(make("h3", row.runs.length > 1 ? "Commands" : "Command"));
    const none = (run) => `# seed ${run.seed}: no overrides of this version reproduce it; see its config.yaml`;
    parts.push(make("pre", row.runs.map((run) => run.command ?? none(run)).join("\n"), { className: "command" }));
    return parts;
  }

  function provenance(runs) {
    const names = ["seed", "status", "folder", "hash", "data", "device", "weights"];
    const headings = ["seed", "status", "run", "configuration, SHA-256", "data", "device", "weights, SHA-256"];
    const head = make("tr", headings.map((name) => make("th", name, { scope: "col" })));
    const rest = runs.map((run) => make("tr", names.map((name) => make("td", run[name]))));
    return make("table", [head, ...rest]);
  }

  function toggle(line, button) {
    const open = button.getAttribute("aria-expanded") !== "true";
    button.setAttribute("aria-expanded", open);
    if (open) {
      const cell = make("td", make("div", details(rowOf(line))), { colSpan: headings.length });
      opened.set(line, make("tr", cell, { className: "details" }));
      line.after(opened.get(line));
    } else {
      opened.get(line).remove();
      opened.delete(line);
    }
  }

  // ---- plots
  const symbols = ["circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "x", "triangle-left", "star"];
  const backends = [...new Set(data.rows.map((row) => row.backend))];
  const headingOf = Object.fromEntries(data.columns.map(([key, heading]) => [key, heading]));
  const escaped = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const hatches = { ".": ".", "|": "|", "-": "-", "\\": "\\", "/": "/", x: "x", o: "+" };
  const most = 30; // the most configurations in the plot of phases
  const crowd = 60;
  let printing = false;
  const narrow = () => innerWidth < 640 && !printing;

  function colour(name) {
    if (printing) return { "--ink": "#000", "--faint": "#444", "--line": "#ccc", "--paper": "#fff" }[name];
    return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  }

  const percent = { autorangeoptions: { clipmax: data.mostPercent } }; // no accuracy is larger
  const taller = (traces) => (narrow() ? 20 * traces : 0); // a legend with one entry a line
  function layout(x, y, height = 420) {
    const axis = { gridcolor: colour("--line"), linecolor: colour("--faint"), zeroline: false, automargin: true };
    return {
      height,
      paper_bgcolor: colour("--paper"),
      plot_bgcolor: colour("--paper"),
      font: { family: "system-ui, sans-serif", size: 13, color: colour("--ink") },
      margin: { l: 60, r: 45, t: 30, b: 50 },
      hovermode: "closest",
      legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0, font: { size: narrow() ? 11 : 13 } },
      modebar: { orientation: "v" },  // a horizontal bar would cover the legend
      xaxis: { ...axis, title: { text: escaped(x) } },
      yaxis: { ...axis, title: { text: escaped(y) }, ...(y === headingOf.accuracy ? percent : {}) },
    };
  }

  function show(id, traces, arrangement) {
    if (traces.length) {
      $(id).querySelector(".empty")?.remove();
      return Plotly.react(id, traces, arrangement, { displaylogo: false, responsive: true, showSendToCloud: false });
    }
    Plotly.purge(id);
    $(id).replaceChildren(make("p", "None of the visible configurations has these figures.", { className: "empty" }));
    return undefined;
  }

  const reach = (values, bound) => values.map((value) => (value.length < 3 ? 0 : Math.abs(value[bound] - value[0])));
  const bars = (values, rows) => ({ // no error bars where they would hide the points
    visible: rows.length <= crowd, array: reach(values, 2), arrayminus: reach(values, 1), thickness: 1, width: 2,
  });

  // Points by backend, each with its own colour and shape.
  function points(rows, x, y) {
    return backends.flatMap((backend, place) => {
      const own = rows.filter((row) => row.backend === backend);
      if (!own.length) return [];
      const [xs, ys] = [x, y].map((key) => own.map((row) => row.figures[key]));
      const dark = data.colours[place % data.colours.length];
      return [{
        type: "scatter", mode: "markers", name: escaped(backend),
        x: xs.map(([value]) => value), y: ys.map(([value]) => value), error_x: bars(xs, rows), error_y: bars(ys, rows),
        marker: { size: 9, symbol: symbols[place % symbols.length], color: dark === "#000000" ? colour("--ink") : dark },
        text: own.map((row) => row.pieces.map(escaped).join("<br>")),
        hovertemplate: `%{text}<br>${escaped(headingOf[x])}: %{x:.4g}<br>${escaped(headingOf[y])}: %{y:.4g}<extra></extra>`,
      }];
    });
  }

  // An axis whose values span decades is logarithmic.
  function scale(axis, rows, key) {
    const values = rows.map((row) => row.figures[key][0]);
    const [low, high] = [Math.min(...values), Math.max(...values)];
    if (!(low > 0 && high >= 10 * low)) return;
    const digits = high < 1000 * low ? [1, 2, 5] : [1];
    const first = Math.floor(Math.log10(low)), powers = Math.ceil(Math.log10(high)) - first + 1;
    const ticks = Array.from({ length: powers }, (_, power) => digits.map((digit) => Number(`${digit}e${first + power}`)));
    Object.assign(axis, { type: "log", tickvals: ticks.flat(), ticktext: ticks.flat().map(String) });
  }

  // The Pareto front: rows that no row with as little overhead beats.
  function front(rows, x, y) {
    const at = (row, key) => row.figures[key][0];
    const ordered = [...rows].sort((a, b) => at(a, x) - at(b, x) || at(b, y) - at(a, y));
    let best = -Infinity;
    const kept = ordered.filter((row) => at(row, y) > best && ((best = at(row, y)), true));
    return {
      type: "scatter", mode: "lines", name: "Pareto front", hoverinfo: "skip",
      x: kept.map((row) => at(row, x)), y: kept.map((row) => at(row, y)),
      line: { shape: "hv", dash: "dash", width: 1.2, color: colour("--faint") },
    };
  }

  function drawPareto(rows) {
    const key = $("overhead").value;
    const both = rows.filter((row) => row.figures[key] && row.figures.accuracy);
    if (!both.length) return show("pareto", []);
    const arrangement = layout(headingOf[key], headingOf.accuracy);
    scale(arrangement.xaxis, both, key);
    const traces = [front(both, key, "accuracy"), ...points(both, key, "accuracy")];
    arrangement.height += taller(traces.length);
    return show("pareto", traces, arrangement);
  }

  function drawEpsilon(rows) {
    const both = rows.filter((row) => row.figures.epsilon && row.figures.accuracy);
    if (!both.length) return show("epsilon", []);
    const arrangement = layout(headingOf.epsilon, headingOf.accuracy);
    scale(arrangement.xaxis, both, "epsilon");
    const plain = rows.filter((row) => row.plain && row.figures.accuracy);
    arrangement.shapes = plain.slice(0, most).map((row) => ({
      type: "line", xref: "paper", x0: 0, x1: 1, y0: row.figures.accuracy[0], y1: row.figures.accuracy[0],
      line: { dash: "dot", width: 1, color: colour("--faint") },
    }));
    const traces = points(both, "epsilon", "accuracy");
    arrangement.height += taller(traces.length);
    return show("epsilon", traces, arrangement);
  }

  function drawPhases(rows) {
    const measured = rows.filter((row) => row.phases.length);
    const some = measured.slice(0, most);
    $("shown").textContent = measured.length > most ? ` (the first ${most} of ${measured.length})` : "";
    const names = some.map((row) => broken(row.pieces));
    const height = 8 + 14 * Math.max(1, ...names.map((name) => name.split("<br>").length));
    const arrangement = layout(data.phasesHeading, "", 140 + height * names.length);
    const places = some.map((_, place) => place);
    Object.assign(arrangement, { barmode: "stack", bargap: 0.3 });
    Object.assign(arrangement.yaxis, { tickvals: places, ticktext: names, autorange: "reversed", showgrid: false, tickfont: { size: 11 } });
    arrangement.legend.traceorder = "normal";
    const traces = data.phases.flatMap(([name, dark, hatch], phase) => {
      const widths = some.map((row) => row.phases[phase]);
      if (!widths.some((width) => width > 0)) return [];
      const fill = dark === "#000000" ? colour("--ink") : dark;
      const pattern = { shape: hatches[hatch] ?? "", fillmode: "overlay", fgcolor: colour("--paper"), fgopacity: 0.7, size: 7 };
      const marker = { color: fill, pattern, line: { width: 0.5, color: colour("--paper") } };
      return [{ type: "bar", orientation: "h", name, x: widths, y: places, marker, 
        customdata: some.map((row) => row.pieces.map(escaped).join("<br>")),
        hovertemplate: `%{customdata}<br>${name}: %{x:.4g}<extra></extra>` }];
    });
    arrangement.height += taller(traces.length);
    return show("phases", traces, arrangement);
  }

  // A label in up to three lines of some forty characters, on a phone of twenty; the first one names the protection.
  function broken(pieces) {
    const most = narrow() ? 20 : 42;
    const lines = [""];
    for (const piece of pieces) {
      const last = lines.at(-1);
      if (last && last.length + piece.length >= most) lines.push(piece);
      else lines[lines.length - 1] = last ? `${last} ${piece}` : piece;
    }
    const kept = lines.length > 3 ? [...lines.slice(0, 2), `${lines[2]} …`] : lines;
    return kept.map(escaped).join("<br>");
  }

  async function drawNow() {
    const rows = shown();
    await Promise.all([drawPareto(rows), drawEpsilon(rows), drawPhases(rows)]);
    performance.mark("drawn"); // repeated after each filter
  }

  let waiting = 0;
  function draw() {
    clearTimeout(waiting);
    waiting = setTimeout(drawNow, 60);
  }

  $("filter").addEventListener("input", filter);
  $("overhead").addEventListener("change", draw);
  for (const [id, event] of [["order", "change"], ["reverse", "click"]]) {
    $(id).addEventListener(event, () => sortBy(headings[$("order").value])); // again: the other way round
  }
  matchMedia("(max-width: 40rem)").addEventListener("change", draw);
  headings.forEach((heading) => heading.querySelector("button").addEventListener("click", () => sortBy(heading)));
  body.addEventListener("click", (event) => {
    const button = event.target.closest("tr[data-row] > th button");
    if (button) toggle(button.closest("tr"), button);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  addEventListener("beforeprint", () => ((printing = true), drawNow()));
  addEventListener("afterprint", () => ((printing = false), drawNow()));
  if ($("overhead").querySelector('[value="round_ratio"]')) $("overhead").value = "round_ratio";
  drawNow();
})();
