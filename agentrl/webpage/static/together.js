"use strict";
// Several runs: what they are, seeds of one recipe, and two runs compared task by task.

(() => {
  const { h, section } = agentrl;

  agentrl.runName = (number) => {
    const all = agentrl.store.runs.map((run) => run.overview);
    const one = all[number];
    const folder = one.workdir.replace(/\/+$/, "").split("/").pop();
    const same = all.filter((other) => other.workdir.replace(/\/+$/, "").split("/").pop() === folder);
    return same.length > 1 ? one.workdir : folder;
  };

  agentrl.groupName = (group) => {
    const names = group.members.map((m) => agentrl.store.runs[m].overview.name);
    return [...new Set(names)].join(", ");
  };

  // Groups of the server's, or one for each run until it has answered.
  agentrl.groups = () => agentrl.store.together
    ? agentrl.store.together.groups : agentrl.store.runs.map((_, number) => ({ members: [number] }));

  agentrl.drawRuns = () => {
    const rows = agentrl.store.runs.map((run, number) => {
      const o = run.overview;
      const last = run.results ? run.results.panels.map((panel) => {
        const row = panel.rows[panel.rows.length - 1];
        return h("div", {}, `${panel.name} `, h("b", { text: agentrl.percent(row.success.mean) }),
          h("span", { class: "soft small" },
            ` ${agentrl.percent(row.success.low)} to ${agentrl.percent(row.success.high)}, after ${row.stage}`));
      }) : "\u2013";
      return [h("a", { href: `#run=${number}`, text: agentrl.runName(number) }), String(o.seed),
        agentrl.describeStatus(run), last];
    });
    return section("runs", "Runs", null,
      agentrl.plainTable(["run", "seed", "status", "success after the last evaluated stage, %"], rows));
  };

  agentrl.drawGroups = () => {
    const found = [];
    for (const group of agentrl.groups()) {
      if (group.members.length < 2) continue;
      const name = `${agentrl.groupName(group)}: ${group.members.map(agentrl.runName).join(", ")}`;
      if (group.results) {
        found.push(h("h2", { class: "group", text: `Seeds of one recipe` }), h("p", { text: name }),
          ...agentrl.drawResults(group.results, { tasks: false }));
      } else if (group.refused) {
        found.push(h("div", { class: "card problem", text: `${name}: ${group.refused}` }));
      }
    }
    return found;
  };

  // -- Two runs --------------------------------------------------------------------------

  const chosen = { pair: 0, stages: "" };

  agentrl.drawComparison = () => {
    const together = agentrl.store.together;
    if (!together || !together.comparisons.length) return null;
    const content = h("div", {});
    const redraw = () => {
      const comparison = together.comparisons[Math.min(chosen.pair, together.comparisons.length - 1)];
      const pairs = [...new Map(comparison.panels.map((p) => [p.stages.join("\n"), p.stages])).values()];
      const names = pairs.map((p) => p.join("\n"));
      if (!names.includes(chosen.stages)) chosen.stages = names[names.length - 1] || "";
      const select = (label, options, value, change) =>
        h("label", { class: "small soft" }, label, " ", h("select", { "aria-label": label,
          on: { change: (event) => { change(event.target.value); event.target.blur(); redraw(); } } },
          options.map(([key, text]) => h("option", { value: key, selected: String(key) === String(value), text }))));
      agentrl.replace(content,
        h("div", { class: "controls" },
          select("runs", together.comparisons.map((c, i) =>
            [i, `${agentrl.runName(c.second)} against ${agentrl.runName(c.first)}`]), chosen.pair,
          (v) => { chosen.pair = Number(v); }),
          select("after", pairs.map((p) => [p.join("\n"), p[0] === p[1] ? p[0] : `${p[1]}, ${p[0]}`]),
            chosen.stages, (v) => { chosen.stages = v; })),
        drawPair(comparison, comparison.panels.filter((p) => p.stages.join("\n") === chosen.stages)));
    };
    redraw();
    return section("comparison", "Two runs, task by task",
      "Both were evaluated on the same tasks: differences are paired over tasks, with 95 % intervals. They hold for these policies; other seeds of the recipes may differ otherwise.",
      content);
  };

  function drawPair(comparison, panels) {
    if (!panels.length) return h("p", { text: "These runs have no evaluated panel in common yet." });
    const usable = panels.filter((p) => !p.refused);
    const limit = Math.min(1, Math.max(0.1, ...usable.flatMap((p) =>
      [Math.abs(p.success.low), Math.abs(p.success.high)])));
    const rows = usable.map((p) => ({ label: p.panel, ...p.success, color: agentrl.color(0), hollow: !p.called }));
    return [
      panels.filter((p) => p.refused).map((p) =>
        h("div", { class: "card problem", text: `${p.panel}: ${p.refused}` })),
      usable.length ? h("div", { class: "card" },
        h("h3", { text: `${agentrl.runName(comparison.second)} minus ${agentrl.runName(comparison.first)}` }),
        h("span", { class: "soft small", text: "filled where the interval excludes 0" }),
        agentrl.dotChart({ rows, from: -limit, to: limit, signed: true, xLabel: "change of success, points" })) : null,
      h("div", { class: "charts large" }, usable.map((p) => agentrl.taskCard({
        title: p.panel, env: p.env,
        note: `${agentrl.runName(comparison.second)} against ${agentrl.runName(comparison.first)}`,
        values: p.items.map((item, i) => ({ item, label: item, change: p.means[1][i] - p.means[0][i],
          note: `${agentrl.percent(p.means[0][i], 0)} % then ${agentrl.percent(p.means[1][i], 0)} %` })),
        onClick: (value) => agentrl.openEpisodes({ run: comparison.second, env: p.env, item: value.item }),
      }))),
      h("div", {}, usable.map((p) => agentrl.fold(`${p.panel}: every task`, agentrl.plainTable(
        ["task", agentrl.runName(comparison.first), agentrl.runName(comparison.second), "change", "score"],
        p.items.map((item, i) => [i, item]).sort((a, b) =>
          (p.means[1][a[0]] - p.means[0][a[0]]) - (p.means[1][b[0]] - p.means[0][b[0]])).map(([i, item]) =>
          [item, `${agentrl.percent(p.means[0][i], 0)} %`, `${agentrl.percent(p.means[1][i], 0)} %`,
            agentrl.signed(100 * (p.means[1][i] - p.means[0][i]), 0),
            agentrl.signed(p.scores[1][i] - p.scores[0][i], 2)]))))),
    ];
  }
})();
