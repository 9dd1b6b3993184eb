"use strict";
// Training curves: reinforcement on an axis of its own, supervised stages apart from it;
// one run by environment, or several runs beside each other.

(() => {
  const { h, section } = agentrl;

  const AXES = {
    iterations: "iteration",
    steps: "optimizer step",
    tokens: "tokens trained on",
    seconds: "hours",
  };
  // title, metric (* for each environment), unit, kind of axis
  const REINFORCED = [
    ["Success", "env/*/success", "share of episodes", "percent"],
    ["Return", "env/*/return", "mean sum of rewards", "linear"],
    ["Turns", "env/*/turns", "mean per episode", "linear"],
    ["Tokens written", "env/*/action_tokens", "mean per episode", "linear"],
    ["Entropy", "policy/entropy", "nats per token", "linear"],
    ["Groups without signal", "rollout/zero_variance_groups", "share with equal returns", "percent"],
    ["Sampler against learner", "policy/first_logprob_mismatch", "mean |log-probability difference|, nats", "log"],
    ["Gradient norm", "optimizer/grad_norm", "before clipping", "log"],
    ["Decoding", "perf/decode_tokens_per_second", "tokens per second", "linear"],
    ["Learning", "perf/learner_tokens_per_second", "tokens per second", "linear"],
  ];
  const SUPERVISED = [
    ["Loss", "policy/loss", "nats per demonstrated token", "linear"],
    ["Entropy", "policy/entropy", "nats per token", "linear"],
    ["Gradient norm", "optimizer/grad_norm", "before clipping", "log"],
  ];
  const ENDINGS = ["solved", "failed", "max_turns", "max_tokens", "env_timeout", "env_error"];

  const choice = { axis: "iterations", metric: "", mean: true };

  // One metric of a run over its stages of one kind, on a common axis that starts at 0.
  function gather(run, metric, supervised, axis) {
    const found = { x: [], y: [], parts: [] };
    let offset = 0;
    let before = 0; // where the axis stood when the stages of the other kind ended
    for (const stage of run.curves.stages) {
      const place = axis === "iterations" ? stage.iterations.map((i) => i + 1) : stage[axis];
      const start = axis === "steps" ? before : 0;
      const scale = axis === "seconds" ? 1 / 3600 : 1;
      const end = place.length ? place[place.length - 1] : start;
      if (stage.supervised === supervised) {
        const values = stage.series[metric];
        found.parts.push({ from: offset, to: offset + (end - start) * scale, label: stage.stage });
        for (let i = 0; i < place.length; i += 1) {
          found.x.push(offset + (place[i] - start) * scale);
          found.y.push(values ? values[i] : null);
        }
        offset += (end - start) * scale;
      }
      if (axis === "steps") before = end;
    }
    return found;
  }

  const hasNumbers = (one) => one.y.some((v) => v !== null);

  function chartCard(title, unit, kind, series, parts, axis) {
    const shown = series.filter(hasNumbers);
    if (!shown.length) return null;
    const several = shown.length > 1 || shown[0].label;
    return h("div", { class: "card" }, h("h3", { text: title }),
      agentrl.lineChart({ series: shown, parts, kind, yLabel: unit, xLabel: AXES[axis],
        fractions: axis === "seconds" || axis === "tokens" }),
      several ? agentrl.legend(shown.map((one) => [one.label, one.color, one.dash])) : null);
  }

  function singleCharts(run, charts, supervised, axis) {
    const environments = run.overview.environments;
    return charts.map(([title, metric, unit, kind]) => {
      const names = metric.includes("*")
        ? environments.map((env) => [env, metric.replace("*", env)]) : [["", metric]];
      const gathered = names.map(([label, name]) => [label, gather(run, name, supervised, axis)]);
      const series = gathered.map(([label, one], index) => ({ label, x: one.x, y: one.y,
        color: agentrl.color(index), dash: agentrl.dash(index) }));
      return chartCard(title, unit, kind, series, gathered[0][1].parts, axis);
    });
  }

  function endingsChart(run, axis) {
    const gathered = ENDINGS.map((name) => [name, gather(run, `rollout/ending/${name}`, false, axis)]);
    const series = gathered.map(([label, one], index) => ({ label, x: one.x, y: one.y,
      color: agentrl.color(index), dash: agentrl.dash(index) }))
      .filter((one) => one.y.some((v) => v));
    return chartCard("How episodes end", "share of the iteration's episodes", "percent", series,
      gathered[0][1].parts, axis);
  }

  // -- Several runs ----------------------------------------------------------------------

  // A curve's value at x, between its neighbours; null outside of it.
  function valueAt(one, x) {
    const i = one.x.findIndex((v) => v >= x - 1e-9);
    if (i < 0) return null;
    if (i === 0 || Math.abs(one.x[i] - x) < 1e-9) return Math.abs(one.x[i] - x) < 1e-9 ? one.y[i] : null;
    const [a, b] = [one.y[i - 1], one.y[i]];
    if (a === null || b === null) return null;
    return a + ((b - a) * (x - one.x[i - 1])) / (one.x[i] - one.x[i - 1]);
  }

  // Mean of seeds, and the band from the lowest to the highest of them.
  function spread(curves) {
    const grid = curves.reduce((a, b) => (b.x.length > a.x.length ? b : a)).x;
    const found = { x: grid, y: [], low: [], high: [] };
    for (const x of grid) {
      const values = curves.map((one) => valueAt(one, x)).filter((v) => v !== null);
      const all = values.length === curves.length;
      found.y.push(all ? values.reduce((a, b) => a + b, 0) / values.length : null);
      found.low.push(all ? Math.min(...values) : null);
      found.high.push(all ? Math.max(...values) : null);
    }
    return found;
  }

  function seriesOfRuns(runs, groups, metric, supervised, axis) {
    const gathered = runs.map((run) => gather(run, metric, supervised, axis));
    const parts = gathered.reduce((a, b) => (b.x.length > a.x.length ? b : a)).parts;
    const series = [];
    groups.forEach((group, index) => {
      const members = group.members.filter((m) => hasNumbers(gathered[m]));
      if (choice.mean && members.length > 1) {
        series.push({ label: `${agentrl.groupName(group)}: mean of ${members.length} seeds, lowest to highest`,
          ...spread(members.map((m) => gathered[m])), color: agentrl.color(index), dash: agentrl.dash(index) });
        return;
      }
      for (const m of members) {
        series.push({ label: agentrl.runName(m), x: gathered[m].x, y: gathered[m].y,
          color: agentrl.color(m), dash: agentrl.dash(m) });
      }
    });
    return [series, parts];
  }

  function chartsOfRuns(runs, groups, charts, supervised, axis) {
    const environments = [...new Set(runs.flatMap((run) => run.overview.environments))];
    return charts.flatMap(([title, metric, unit, kind]) => {
      const names = metric.includes("*")
        ? environments.map((env) => [`${title}: ${env}`, metric.replace("*", env)]) : [[title, metric]];
      return names.map(([name, one]) =>
        chartCard(name, unit, kind, ...seriesOfRuns(runs, groups, one, supervised, axis), axis));
    });
  }

  // Where a reward is given for success alone, its curve would come twice.
  const returnsAreSuccess = (runs) => runs.every((run) => run.curves.stages.every((stage) =>
    Object.keys(stage.series).filter((name) => /^env\/.*\/return$/.test(name)).every((name) =>
      JSON.stringify(stage.series[name]) === JSON.stringify(stage.series[name.replace(/return$/, "success")]))));

  // -- The section -----------------------------------------------------------------------

  function controls(runs, redraw) {
    const metrics = [...new Set(runs.flatMap((run) =>
      run.curves.stages.flatMap((stage) => Object.keys(stage.series))))].sort();
    const select = (label, options, value, change) =>
      h("label", { class: "small soft" }, label, " ", h("select", {
        "aria-label": label,
        on: { change: (event) => { change(event.target.value); event.target.blur(); redraw(); } },
      }, options.map(([key, text]) => h("option", { value: key, selected: key === value, text }))));
    return h("div", { class: "controls" },
      select("axis", Object.entries(AXES), choice.axis, (v) => { choice.axis = v; }),
      select("any metric", [["", "\u2013"], ...metrics.map((m) => [m, m])], choice.metric,
        (v) => { choice.metric = v; }),
      runs.length > 1 ? select("seeds", [["mean", "mean and spread"], ["each", "each run"]],
        choice.mean ? "mean" : "each", (v) => { choice.mean = v === "mean"; }) : null);
  }

  agentrl.drawCurves = (runs, groups) => {
    const content = h("div", {});
    const usable = runs.every((run) => run.curves);
    const kinds = new Set(usable ? runs.flatMap((run) => run.curves.stages.map((s) => s.supervised)) : []);
    const redraw = () => {
      const { axis, metric } = choice;
      const draw = (charts, supervised) => runs.length > 1
        ? chartsOfRuns(runs, groups, charts, supervised, axis)
        : singleCharts(runs[0], charts, supervised, axis);
      const parts = [controls(runs, redraw)];
      if (metric) {
        parts.push(h("div", { class: "charts one" },
          kinds.has(false) ? draw([[metric, metric, "reinforcement", "linear"]], false) : null,
          kinds.has(true) ? draw([[`${metric}, supervised`, metric, "supervised stages", "linear"]], true) : null));
      }
      if (kinds.has(false)) {
        const first = REINFORCED.slice(0, returnsAreSuccess(runs) ? 1 : 2);
        parts.push(h("div", { class: "charts" }, draw(first, false),
          runs.length === 1 ? endingsChart(runs[0], axis) : null, draw(REINFORCED.slice(2), false)));
      }
      if (kinds.has(true)) {
        parts.push(h("h3", { class: "apart", text: "Supervised stages" }),
          h("div", { class: "charts" }, draw(SUPERVISED, true)));
      }
      agentrl.replace(content, ...parts);
    };
    redraw();
    return section("training", "Training",
      "Reinforcement begins at 0 of its own axis; thin as measured, bold as a running mean within a stage.",
      content);
  };
})();
