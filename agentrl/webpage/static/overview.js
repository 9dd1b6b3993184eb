"use strict";
// The sections about one run: where it stands, results, curves, time, failures, provenance.

(() => {
  const { h, section } = agentrl;
  const DOT = " \u00b7 ";

  // -- Where it stands -------------------------------------------------------------------

  function describeMachine(described) {
    const devices = described.devices || {};
    const versions = described.versions || {};
    const git = described.git;
    return [
      `${devices.count} \u00d7 ${devices.kind} (${devices.platform})`,
      `agentrl ${versions.agentrl}, JAX ${versions.jax}, Python ${versions.python}`,
      git ? `commit ${git.commit.slice(0, 12)}${git.dirty ? " with local changes" : ""}` : null,
    ];
  }

  agentrl.drawHeader = (run) => {
    const o = run.overview;
    return h(
      "header",
      {},
      h("h1", { text: o.name }),
      h("div", { class: "soft small" },
        [`Started ${o.date}`, `seed ${o.seed}`, ...describeMachine(o)].filter(Boolean).join(DOT)),
      h("div", { class: "soft small" }, h("code", { text: o.command })),
      o.config && o.config.start_from
        ? h("div", { class: "soft small" }, "Started from ", h("code", { text: o.config.start_from })) : null,
      (o.continued || []).map((entry) => h("div", { class: "soft small",
        text: [`Continued ${entry.date}, ${describePlace(entry)}`, ...describeMachine(entry)]
          .filter(Boolean).join(DOT) })),
      (o.changes || []).map(drawHistory),
      o.problem ? h("div", { class: "card problem", text: o.problem }) : null,
      drawProgress(run),
    );
  };

  function describePlace({ stage, iteration }) {
    return `after iteration ${iteration}${stage ? ` of stage ${stage}` : ""}`;
  }

  function drawHistory(change) {
    const fields = change.fields.map((f) => f.old === null
      ? `${f.field} is new` : `${f.field} from ${JSON.stringify(f.old)} to ${JSON.stringify(f.new)}`);
    return h("div", { class: "soft small",
      text: `Changed ${change.date}, ${describePlace(change)}: ${fields.join("; ")}` });
  }

  function drawProgress(run) {
    const o = run.overview;
    return h("ol", { class: "stages", "aria-label": "stages" }, o.stages.map((stage) => {
      const share = stage.planned ? stage.done / stage.planned : 0;
      return h("li", { class: share >= 1 ? "done" : share > 0 ? "active" : "" },
        h("b", { text: stage.name }),
        h("span", { class: "soft small", text:
          `${stage.algorithm}${DOT}${stage.environments.join(", ")}` }),
        h("span", { class: "progress" }, h("i", { style: { width: `${100 * Math.min(1, share)}%` } })),
        h("span", { class: "soft small", text: `${stage.done} of ${stage.planned} iterations` }));
    }));
  }

  agentrl.describeStatus = (run) => {
    const o = run.overview;
    const stage = o.stages.find((one) => one.done < one.planned);
    if (!stage) return "finished";
    const totals = run.curves ? run.curves.totals.find((t) => t.stage === stage.name) : null;
    const pace = totals ? totals.seconds_per_iteration : null;
    const left = pace ? `, ${agentrl.duration(pace * (stage.planned - stage.done))} left of it` : "";
    const age = o.last_wall_time ? Date.now() / 1000 - o.last_wall_time : null;
    const quiet = age !== null && age > Math.max(o.resting_after_s, 5 * (pace || 0))
      ? `; nothing new for ${agentrl.duration(age)}` : "";
    return `${stage.name} ${stage.done}/${stage.planned}${left}${agentrl.store.live ? quiet : ""}`;
  };

  agentrl.drawTiles = (run) => {
    const tiles = [];
    const o = run.overview;
    const done = o.stages.reduce((sum, s) => sum + s.done, 0);
    const planned = o.stages.reduce((sum, s) => sum + s.planned, 0);
    const results = run.results;
    if (results) {
      for (const panel of results.panels) {
        const last = panel.rows[panel.rows.length - 1];
        const [note, mood] = describeGain(results, panel, last);
        tiles.push(tile(`${panel.name}, avg@${last.samples}`, `${agentrl.percent(last.success.mean)} %`, note, mood));
      }
    }
    const totals = run.curves ? run.curves.totals : [];
    const sum = (name) => totals.reduce((value, t) => value + (t[name] || 0), 0);
    tiles.push(
      tile("Iterations", `${done.toLocaleString("en")} of ${planned.toLocaleString("en")}`,
        o.missing ? `missing: ${o.missing}` : null, o.missing ? "down" : ""),
      tile("Training time", agentrl.duration(sum("seconds")), null),
      tile("Tokens", agentrl.compact(sum("trained_tokens")), "trained on"),
      tile("Episodes", run.episodes ? run.episodes.total.toLocaleString("en") : "\u2013", "stored"),
    );
    return h("div", { class: "tiles" }, tiles);
  };

  // The paired gain of a panel's last policy; in colour where it is called.
  function describeGain(results, panel, last) {
    const gains = results.tables.gains[0];
    const row = gains && gains.rows.find((one) => one.label === last.stage);
    const cell = row && row.cells[results.panels.indexOf(panel)];
    if (!results.baseline || !cell || cell.mean === undefined) return [null, ""];
    const up = cell.mean >= 0;
    return [`${up ? "\u25b2" : "\u25bc"} ${cell.text} [${agentrl.signed(100 * cell.low, 0)}, ` +
      `${agentrl.signed(100 * cell.high, 0)}] since ${results.baseline}`, cell.emphasis ? (up ? "up" : "down") : "soft"];
  }

  function tile(label, value, note, mood) {
    return h("div", { class: "card" }, h("span", { class: "soft small", text: label }),
      h("b", { text: value }), note ? h("small", { class: mood || "soft", text: note }) : null);
  }

  // -- Results ---------------------------------------------------------------------------

  agentrl.drawResults = (results, { tasks = true } = {}) => {
    if (!results) return [];
    const parts = [section("results", "Success on held-out tasks",
      "Mean success of every panel after each stage; whiskers are 95 % intervals over tasks.",
      h("div", { class: "charts large" }, results.panels.map((panel) => drawPanel(panel, results))),
      fold("The numbers, with score and pass@k", results.tables.results.map((t) => agentrl.table(t)),
        results.notes.map((note) => h("div", { class: "soft small", text: note }))))];
    if (results.tables.gains.length) {
      const limit = agentrl.changeLimit([...results.tables.gains, ...results.tables.chain]);
      parts.push(section("gains", "Gains, transfer and forgetting",
        "Differences in points, paired over tasks. A bar's length is the change, the dark line its 95 % interval.",
        results.tables.gains.map((t) => agentrl.table(t, { limit })),
        results.tables.chain.length
          ? fold("Held-in, held-out, backward and forward transfer, forgetting",
            results.tables.chain.map((t) => agentrl.table(t, { limit }))) : null));
    }
    if (results.tables.subsets.length) {
      parts.push(section("subsets", "By subset", "Levels, depths or types of tasks.",
        results.tables.subsets.map((t, i) => i === 0 ? agentrl.table(t)
          : agentrl.table({ ...t, note: "" }))));
    }
    if (tasks) parts.push(drawTasks(results), drawTurnCounts(results));
    return parts;
  };

  function drawPanel(panel, results) {
    const row = (one, index, hollow) => ({ label: one.stage, ...one.success, hollow,
      color: hollow ? "var(--soft)" : agentrl.color(index) });
    const rows = panel.rows.map((one) => row(one, results.stages.indexOf(one.stage), false));
    if (panel.chance) rows.push(row(panel.chance, 0, true));
    const first = panel.rows[0];
    return h("div", { class: "card" }, h("h3", { text: panel.name }),
      h("span", { class: "soft small", text: `${agentrl.count(first.tasks, "task")} \u00d7 ` +
        `${agentrl.count(first.samples, "sample")}` }),
      agentrl.dotChart({ rows, xLabel: "success, %" }));
  }

  const fold = (title, ...children) =>
    h("details", { class: "card" }, h("summary", { text: title }), h("div", { class: "inside" }, ...children));
  agentrl.fold = fold;

  // Tasks won and lost between the baseline and the end of each panel.
  function drawTasks(results) {
    const cards = [];
    for (const panel of results.panels) {
      const stages = panel.rows.map((row) => row.stage);
      const first = stages.includes(results.baseline) ? results.baseline : stages[0];
      const last = stages[stages.length - 1];
      if (first === last) continue;
      const before = panel.tasks.means[first];
      const after = panel.tasks.means[last];
      const values = panel.tasks.items.map((item, i) => ({ item, before: before[i], after: after[i],
        subset: panel.subsets[i] })).filter((v) => v.before !== null && v.after !== null)
        .map((v) => ({ ...v, label: v.subset ? `${v.item} (${v.subset})` : v.item,
          change: v.after - v.before,
          note: `${agentrl.percent(v.before, 0)} % after ${first}, ${agentrl.percent(v.after, 0)} % after ${last}` }));
      cards.push(agentrl.taskCard({ title: panel.name, note: `${last} against ${first}`, values,
        env: panel.env }));
    }
    if (!cards.length) return null;
    return section("tasks", "Tasks won and lost",
      "One bar for each task of a panel: the change of its success in points. Click one to read its episodes.",
      h("div", { class: "charts large" }, cards));
  }

  agentrl.taskCard = ({ title, note, values, env, onClick }) => {
    const won = values.filter((v) => v.change > 0).length;
    const lost = values.filter((v) => v.change < 0).length;
    return h("div", { class: "card" },
      h("div", { class: "between" }, h("h3", { text: title }), h("span", { class: "soft small", text: note })),
      h("div", { class: "legend small soft" }, legendKey("won", `${won} won`), legendKey("lost", `${lost} lost`),
        legendKey("same", `${values.length - won - lost} equal`)),
      agentrl.changeChart({ values, yLabel: "change, points", xLabel: "tasks, worst change first",
        onClick: onClick || ((value) => agentrl.openEpisodes({ run: agentrl.shownRun || null, env, item: value.item })) }));
  };

  const legendKey = (kind, text) => h("span", {}, h("i", { class: kind }), text);

  function drawTurnCounts(results) {
    const rows = [];
    for (const panel of results.panels) {
      const stages = panel.rows.map((row) => row.stage);
      const first = stages.includes(results.baseline) ? results.baseline : stages[0];
      const chosen = [...new Set([first, stages[stages.length - 1]])];
      const all = chosen.flatMap((stage) => Object.values(panel.turns[stage]).map(([n]) => n));
      const last = Math.max(1, ...chosen.flatMap((s) => Object.keys(panel.turns[s]).map(Number)));
      for (const stage of chosen) {
        rows.push(h("div", { class: "card" }, agentrl.turnChart({ counts: panel.turns[stage],
          most: Math.max(1, ...all), last, title: `${panel.name} after ${stage}: episodes` })));
      }
    }
    return section("turns", "Success by number of turns",
      "How long the episodes of an evaluation are, and how many of each length succeed: before reinforcement and at the end.",
      h("div", { class: "legend small soft" }, legendKey("won", "solved"), legendKey("same", "not solved")),
      h("div", { class: "charts large" }, rows));
  }

  // -- Where it went ---------------------------------------------------------------------

  agentrl.drawCosts = (run) => {
    const totals = run.curves.totals;
    if (!totals.length) return null;
    const kinds = [...new Set(totals.flatMap((t) => Object.keys(t.times)))].sort();
    const bars = totals.map((t) => agentrl.stackedBar(t.stage,
      `${agentrl.duration(t.seconds / t.iterations)} per iteration`,
      kinds.filter((kind) => t.times[kind]).map((kind) => ({ label: kind, amount: t.times[kind],
        text: agentrl.duration(t.times[kind]), color: agentrl.color(kinds.indexOf(kind)) }))));
    const memory = (t) => Object.entries(t.memory).map(([name, bytes]) =>
      `${name.includes("device") ? "device" : "host"} ${agentrl.compact(bytes)}B`).join(", ") || "\u2013";
    const sum = (name) => totals.reduce((value, t) => value + t[name], 0);
    const rows = totals.map((t) => [t.stage, t.iterations.toLocaleString("en"), agentrl.duration(t.seconds),
      agentrl.compact(t.sampled_tokens), agentrl.compact(t.trained_tokens), agentrl.compact(t.flops),
      t.mfu === null ? "\u2013" : `${agentrl.percent(t.mfu)} %`, memory(t)]);
    if (totals.length > 1) {
      rows.push(["all", sum("iterations").toLocaleString("en"), agentrl.duration(sum("seconds")),
        agentrl.compact(sum("sampled_tokens")), agentrl.compact(sum("trained_tokens")),
        agentrl.compact(sum("flops")), "", ""]);
    }
    return section("costs", "Time, tokens, operations, memory",
      "Wall-clock time by segment of an iteration, without evaluations. Operations are what the model needs in updates; memory is the highest seen.",
      h("div", { class: "card bars" }, bars),
      agentrl.plainTable(["stage", "iterations", "time", "tokens sampled", "tokens trained on",
        "FLOPs", "of the peak", "memory"], rows));
  };

  // -- Failures --------------------------------------------------------------------------

  agentrl.drawFailures = (failures) => {
    if (!failures || !failures.bars.length) return null;
    // Colours for the most frequent tags; what is rare shares the last one.
    const totals = new Map();
    for (const bar of failures.bars) {
      for (const [tag, amount] of Object.entries(bar.counts)) totals.set(tag, (totals.get(tag) || 0) + amount);
    }
    const tags = [...totals].sort((a, b) => b[1] - a[1]).map(([tag]) => tag);
    const colorOf = (tag) => agentrl.color(1 + Math.min(6, tags.indexOf(tag)));
    const bars = failures.bars.map((bar) => {
      const failed = Object.values(bar.counts).reduce((a, b) => a + b, 0);
      const parts = tags.filter((tag) => bar.counts[tag]).map((tag) => ({ label: tag,
        amount: bar.counts[tag], text: String(bar.counts[tag]), color: colorOf(tag) }));
      parts.unshift({ label: "solved", amount: bar.succeeded, text: String(bar.succeeded), color: agentrl.color(0) });
      return agentrl.stackedBar(`${bar.stage}${DOT}${bar.env}`,
        `${failed} of ${agentrl.count(failed + bar.succeeded, "episode")} failed`, parts);
    });
    return section("failures", "How episodes fail",
      "Main failure tag of the episodes of each stage's evaluation, or of the last quarter of its training where it was not evaluated. Tags are read off the transcripts by rules.",
      h("div", { class: "card bars" }, bars),
      failures.tables.length ? fold("Shares of all tags in failed episodes, with intervals",
        h("p", { class: "small", text: "Share of failed episodes that carry a tag, as the main one or beside it, in percent, with its 95 % interval over tasks. Episodes to read are drawn by hash." }),
        failures.tables.map((t) => agentrl.table(t))) : null,
      fold("What the tags mean", h("dl", {}, Object.entries(failures.meanings).map(([tag, text]) =>
        [h("dt", { text: tag }), h("dd", { text })]))),
      drawExamples(failures));
  };

  function drawExamples(failures) {
    const byPlace = new Map();
    for (const example of failures.examples) {
      const key = `${example.stage}${DOT}${example.env}`;
      if (!byPlace.has(key)) byPlace.set(key, []);
      byPlace.get(key).push(example);
    }
    return fold("Transcripts to begin with: a success, and a failure of each main tag",
      h("dl", {}, [...byPlace].map(([key, examples]) => [h("dt", { text: key }),
        h("dd", {}, examples.map((e, i) => [i ? ", " : "",
          agentrl.episodeLink(e.number, e.tag || "solved", e.item)]))])));
  }

  // -- Episodes as they come -------------------------------------------------------------

  agentrl.drawLatest = (run) => {
    if (!agentrl.store.live || !run.episodes || !run.episodes.latest.length) return null;
    const rows = run.episodes.latest.map((e) => [
      [agentrl.chip(e.ending, e.success), agentrl.episodeLink(e.number, e.item)],
      e.kind === "evaluation" ? `${e.stage}, evaluation` : `${e.stage}, iteration ${e.iteration}`,
      agentrl.count(e.turns, "turn"), `reward ${agentrl.compact(e.reward)}`]);
    return section("latest", "Latest episodes", "As they are stored; open one to read it.",
      agentrl.plainTable(["episode", "of", "length", "return"], rows));
  };

  // -- Provenance ------------------------------------------------------------------------

  agentrl.drawProvenance = (run) =>
    section("configuration", "Configuration", "As resolved when the run began, with later changes.",
      fold("The whole of it", h("pre", { class: "wide", text: JSON.stringify(run.overview.config, null, 2) })));
})();
