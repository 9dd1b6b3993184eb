"use strict";
// Puts the page together: which view the address asks for, and what is drawn anew when data
// change.

(() => {
  const { h, store } = agentrl;
  const app = document.getElementById("app");
  const bar = h("nav", { class: "top", "aria-label": "views" });
  const view = h("main", {});
  let shown = ""; // the view that is drawn

  const single = () => store.runs.length === 1;

  function drawBar(route) {
    const link = (href, text, on) => h("a", { href, class: on ? "on" : "", text });
    const number = Number(route.run || 0);
    const status = store.connection || store.runs.map((run) =>
      run && run.overview && run.curves ? agentrl.describeStatus(run) : "reading").join(" | ");
    const reading = route.view === "episodes";
    agentrl.replace(bar,
      h("b", {}, "agentrl"),
      single() ? link("#", "Report", !reading)
        : [link("#", "Runs", !reading && route.run === undefined),
          store.runs.map((_, i) => link(`#run=${i}`, agentrl.runName(i), !reading && route.run === String(i)))],
      link(single() ? "#view=episodes" : `#view=episodes&run=${number}`, "Episodes", reading),
      h("span", { class: store.connection ? "status lost" : store.live ? "status live" : "status", title: status },
        status));
  }

  // Sections of one run; those of `changed` data are drawn anew where they stand.
  const PARTS = [
    ["overview", (run) => [agentrl.drawHeader(run)], ["overview"]],
    ["tiles", (run) => [agentrl.drawTiles(run)], ["results", "curves", "episodes", "overview"]],
    ["results", (run) => agentrl.drawResults(run.results), ["results"]],
    ["curves", (run) => [run.curves.stages.length ? agentrl.drawCurves([run], [{ members: [0] }]) : null], ["curves"]],
    ["latest", (run) => [agentrl.drawLatest(run)], ["episodes"]],
    ["failures", (run) => [agentrl.drawFailures(run.failures)], ["failures"]],
    ["costs", (run) => [agentrl.drawCosts(run)], ["curves"]],
    ["provenance", (run) => [agentrl.drawProvenance(run)], ["overview"]],
  ];
  const COMPARED = [
    ["runs", () => [agentrl.drawRuns()], ["results", "curves", "overview"]],
    ["comparison", () => [agentrl.drawComparison()], ["together"]],
    ["curves", () => [agentrl.drawCurves(store.runs, agentrl.groups())], ["curves", "together"]],
    ["groups", () => agentrl.drawGroups(), ["together"]],
  ];

  // A part that is drawn anew keeps what a reader has done with it: folds that are open, a
  // list of choices that is being looked at, and the place that the window is scrolled to
  // (charts draw themselves a moment later, so the part keeps its height until then).
  function drawPart(node, draw) {
    const active = document.activeElement;
    if (active && active.tagName === "SELECT" && node.contains(active)) return;
    node.style.setProperty("min-height", `${node.offsetHeight}px`);
    window.setTimeout(() => node.style.removeProperty("min-height"), 300);
    const open = new Set([...node.querySelectorAll("details[open] > summary")].map((s) => s.textContent));
    agentrl.replace(node, ...draw());
    for (const summary of node.querySelectorAll("details > summary")) {
      if (open.has(summary.textContent)) summary.parentNode.open = true;
    }
  }

  function drawParts(name, parts, changed, run) {
    const anew = shown !== name;
    if (anew) {
      agentrl.replace(view, parts.map(([part]) => h("div", { id: `part-${part}` })), drawFooter());
      shown = name;
    }
    for (const [part, draw, needs] of parts) {
      if (!anew && !needs.some((need) => changed.has(need))) continue;
      drawPart(document.getElementById(`part-${part}`), () => draw(run));
    }
    return anew;
  }

  const drawFooter = () => h("footer", {}, "Written by agentrl from ", h("code", { text: "metrics.jsonl" }), ", ",
    h("code", { text: "evaluations/" }), " and ", h("code", { text: "episodes/" }), " of the run.");

  const ready = (run) => run && run.overview && run.curves && "results" in run;

  async function draw(changed) {
    if (!store.runs.length || !store.runs.every(ready)) {
      if (store.connection) agentrl.replace(view, h("div", { class: "card problem", text: store.connection }));
      return;
    }
    const route = agentrl.readRoute();
    drawBar(route);
    agentrl.hideTooltip();
    document.body.classList.toggle("wide", route.view === "episodes");
    if (route.view === "episodes") {
      const asked = [...changed].some((name) => name === "address") || shown !== "episodes";
      shown = "episodes";
      if (asked) await agentrl.drawEpisodes(view, route);
      else if (changed.has("episodes")) agentrl.noteNewEpisodes(view, route);
      return;
    }
    const number = single() ? 0 : route.run === undefined ? -1 : Number(route.run);
    const run = store.runs[number];
    agentrl.shownRun = number > 0 ? number : 0;
    const anew = run ? drawParts(`run ${number}`, PARTS, changed, run)
      : drawParts("runs", COMPARED, changed, null);
    const anchor = route.anchor && document.getElementById(route.anchor);
    if (anew && anchor) anchor.scrollIntoView();
    else if (anew) window.scrollTo(0, 0);
  }

  agentrl.replace(app, bar, view);
  store.onChange((changed) => draw(changed));
  window.addEventListener("hashchange", () => draw(new Set(["address"])));
  store.start();
})();
