"use strict";
// One episode turn by turn, its group side by side, and its task over the stages.

(() => {
  const { h, store } = agentrl;

  const COLORS = {
    none: "plain",
    mask: "mask: what is trained on",
    logprob: "log-probability",
    advantage: "advantage",
    ratio: "ratio of probabilities, after to before the update",
    entropy: "entropy",
  };

  // -- Tokens ----------------------------------------------------------------------------

  // Values of a turn's action tokens, a number for all of them or a list; null if not stored.
  function valuesOf(episode, turn, color) {
    const tokens = turn.tokens;
    if (!tokens || !tokens.lengths) return null;
    const own = { logprob: tokens.logprobs, advantage: tokens.advantages, ratio: tokens.ratios,
      entropy: tokens.entropies, mask: tokens.weights }[color];
    const all = { advantage: episode.advantage, mask: episode.weight }[color];
    const value = own !== undefined && own !== null ? own : all;
    if (value === undefined || value === null) return null;
    return Array.isArray(value) ? value : tokens.lengths.map(() => value);
  }

  const hasColor = (episode, color) => color === "none" || color === "mask" ||
    episode.turns.some((turn) => valuesOf(episode, turn, color));

  // How strongly a value is shown, from -1 to 1; negative ones have the other colour.
  function strength(color, value, largest) {
    if (color === "logprob") return -Math.min(1, -value / 3);
    if (color === "ratio") return Math.max(-1, Math.min(1, (value - 1) / 0.5));
    if (color === "entropy") return Math.min(1, value / 2);
    return largest ? value / largest : 0;
  }

  function drawAction(episode, turn, color) {
    const values = color === "none" ? null : valuesOf(episode, turn, color);
    if (!values) {
      return h("pre", { class: color === "mask" ? "action trained" : "action", text: turn.action });
    }
    const largest = Math.max(...episode.turns.flatMap((t) => (valuesOf(episode, t, color) || [0]).map(Math.abs)));
    const letters = Array.from(turn.action);
    let at = 0;
    const spans = turn.tokens.lengths.map((length, i) => {
      const text = letters.slice(at, at + length).join("");
      at += length;
      const value = strength(color, values[i], largest);
      const share = Math.round(Math.abs(value) * 62);
      const tint = color === "mask" ? (values[i] ? "var(--trained)" : "transparent")
        : `color-mix(in srgb, var(${value < 0 ? "--down" : "--up"}) ${share}%, transparent)`;
      const numbers = [];
      if (turn.tokens.logprobs) {
        const p = turn.tokens.logprobs[i];
        numbers.push(`log-probability ${agentrl.fixed(p, 3)} (${agentrl.percent(Math.exp(p), 1)} %)`);
      }
      for (const [name, label] of [["advantage", "advantage"], ["ratio", "ratio"], ["entropy", "entropy"], ["mask", "weight"]]) {
        const found = valuesOf(episode, turn, name);
        if (found) numbers.push(`${label} ${agentrl.fixed(found[i], 3)}`);
      }
      return h("span", { class: length ? "token" : "token stop", style: { "background-color": tint },
        on: { pointermove: (event) => agentrl.showTooltip(event, [length ? JSON.stringify(text) : "stop token", ...numbers]),
          pointerleave: agentrl.hideTooltip } }, length ? text : "\u25a0");
    });
    return h("pre", { class: "action" }, spans, letters.slice(at).join(""));
  }

  function drawKey(color) {
    const ends = { logprob: ["likely", "unlikely: 5 % and less", false], advantage: ["negative", "positive", true],
      ratio: ["0.5", "1.5", true], entropy: ["0", "2 nats and more", false] }[color];
    if (!ends) return null;
    return h("span", { class: "soft small" }, `${ends[0]} `,
      h("i", { class: ends[2] ? "ramp both" : color === "entropy" ? "ramp up" : "ramp" }), ` ${ends[1]}`);
  }

  // -- One episode -----------------------------------------------------------------------

  function drawTurn(episode, position, { color, brief, differs }) {
    const turn = episode.turns[position];
    const facts = [`turn ${position + 1}`, agentrl.count(turn.action_tokens, "token"),
      turn.reward ? `reward ${agentrl.compact(turn.reward)}` : null, turn.valid ? null : "refused"].filter(Boolean);
    return h("div", { class: `turn${turn.valid ? "" : " refused"}${differs ? " differs" : ""}`, "data-turn": position },
      differs ? h("div", { class: "difference", text: "differs from here" }) : null,
      h("pre", { class: brief ? "observation brief" : "observation", text: turn.observation }),
      drawAction(episode, turn, color),
      h("div", { class: "facts", text: facts.join(" \u00b7 ") }));
  }

  function drawEnd(episode) {
    return h("div", { class: "turn" },
      episode.final_observation ? h("pre", { class: "observation", text: episode.final_observation }) : null,
      episode.error ? h("pre", { class: "observation", text: episode.error }) : null);
  }

  const wherefrom = (index, i) => {
    const file = index.files[index.columns.file[i]];
    return file.kind === "evaluation" ? `${file.stage}, evaluation` : `${file.stage}, iteration ${index.columns.iteration[i]}`;
  };

  function replayCommand(run, index, i) {
    const folder = store.runs[run].overview.workdir;
    const place = `${folder}/episodes/${index.files[index.columns.file[i]].name}:${index.lines[i]}`;
    const quoted = /^[\w@%+=:,./-]+$/.test(place) ? place : `'${place.replace(/'/g, "'\\''")}'`;
    return `agentrl play --replay=${quoted}`;
  }

  // One turn at a time, or all; the arrow keys step.
  async function drawEpisode(state) {
    const { run, index, number, route } = state;
    const episode = await store.episode(run, number);
    const count = episode.turns.length;
    const one = route.turn !== undefined;
    const at = Math.max(0, Math.min(count - 1, Number(route.turn || 0)));
    const color = COLORS[route.color] && hasColor(episode, route.color) ? route.color : "mask";
    const go = (values) => agentrl.openEpisodes({ ...route, n: number, ...values });
    const turns = one ? [at] : episode.turns.map((_, i) => i);
    return h("div", { class: "card" },
      h("div", { class: "controls" },
        h("button", { type: "button", text: one ? "all turns" : "step through", "data-do": "step",
          on: { click: () => go({ turn: one ? null : 0 }) } }),
        one ? [
          h("button", { type: "button", text: "\u25c0", "aria-label": "turn before", disabled: at === 0,
            "data-do": "before", on: { click: () => go({ turn: at - 1 }) } }),
          h("span", { class: "soft small", text: `turn ${at + 1} of ${count}` }),
          h("button", { type: "button", text: "\u25b6", "aria-label": "next turn", disabled: at >= count - 1,
            "data-do": "next", on: { click: () => go({ turn: at + 1 }) } }),
        ] : null,
        h("label", { class: "small soft" }, "colour ", h("select", { "data-do": "color",
          on: { change: (event) => go({ color: event.target.value }) } },
          Object.entries(COLORS).filter(([key]) => hasColor(episode, key)).map(([key, text]) =>
            h("option", { value: key, selected: key === color, text })))),
        drawKey(color)),
      turns.map((i) => drawTurn(episode, i, { color })),
      one && at < count - 1 ? null : drawEnd(episode),
      h("div", { class: "facts" }, h("code", { text: replayCommand(run, index, number) })));
  }

  // -- Side by side ----------------------------------------------------------------------

  async function drawColumns(run, index, columns, route) {
    const episodes = await Promise.all(columns.map((column) => store.episode(run, column.number)));
    return h("div", { class: "columns", tabindex: 0 }, columns.map((column, place) => {
      const episode = episodes[place];
      const before = column.compared ? episodes[place - 1] : null;
      const first = before ? episode.turns.findIndex((turn, i) =>
        !before.turns[i] || before.turns[i].action !== turn.action) : -1;
      return h("article", { class: "column" },
        h("header", {}, agentrl.chip(episode.ending, episode.success),
          h("a", { href: state2hash(route, column.number), text: column.title }),
          h("div", { class: "soft small", text: [column.note, agentrl.count(episode.turns.length, "turn"),
            `reward ${agentrl.compact(episode.reward)}`, ...(episode.failures || [])].filter(Boolean).join(" \u00b7 ") }),
          column.control || null),
        episode.turns.map((_, i) => drawTurn(episode, i, { color: "none", brief: true, differs: i === first })),
        drawEnd(episode));
    }));
  }

  let toHash = null;
  const state2hash = (route, number) => {
    const { tab, turn, ...rest } = route;
    return toHash({ ...rest, n: number });
  };

  // The episodes of one task that were played together, by sample.
  function groupOf(index, number) {
    const c = index.columns;
    const same = ["file", "iteration", "env", "item", "group"];
    const found = [];
    for (let i = 0; i < index.count; i += 1) {
      if (same.every((name) => c[name][i] === c[name][number])) found.push(i);
    }
    return found.sort((a, b) => c.sample[a] - c.sample[b]);
  }

  // The episodes of a task, by file: evaluations of a stage, or its training.
  function taskOf(index, number) {
    const c = index.columns;
    const files = new Map();
    for (let i = 0; i < index.count; i += 1) {
      if (c.item[i] !== c.item[number] || c.env[i] !== c.env[number]) continue;
      if (!files.has(c.file[i])) files.set(c.file[i], []);
      files.get(c.file[i]).push(i);
    }
    return [...files].sort((a, b) => a[0] - b[0]).map(([, numbers]) => numbers);
  }

  async function drawGroup({ run, index, number, route }) {
    const numbers = groupOf(index, number);
    const solved = numbers.filter((i) => index.columns.success[i]).length;
    return [h("p", { class: "small", text: `${solved} of ${agentrl.count(numbers.length, "episode")} of this group solved the task.` }),
      await drawColumns(run, index, numbers.map((i) => ({ number: i,
        title: `sample ${index.columns.sample[i]}`, compared: false })), route)];
  }

  async function drawTask({ run, index, number, route }) {
    const c = index.columns;
    let stages = taskOf(index, number);
    const evaluated = stages.filter((numbers) => index.files[c.file[numbers[0]]].kind === "evaluation");
    if (evaluated.length > 1) stages = evaluated;
    const kept = new Map(String(route.against || "").split(",").filter(Boolean).map((i) => [c.file[Number(i)], Number(i)]));
    kept.set(c.file[number], number);
    const columns = stages.map((numbers, place) => {
      const chosen = kept.get(c.file[numbers[0]]);
      const shown = chosen !== undefined ? chosen : numbers[0];
      const solved = numbers.filter((i) => c.success[i]).length;
      const pick = h("select", { "aria-label": "sample", on: { change: (event) => {
        kept.set(c.file[numbers[0]], Number(event.target.value));
        agentrl.openEpisodes({ ...route, n: number, tab: "task", against: [...kept.values()].join(",") });
      } } }, numbers.slice(-64).map((i) => h("option", { value: i, selected: i === shown,
        text: `${index.files[c.file[i]].kind === "evaluation" ? "" : `iteration ${c.iteration[i]}, `}sample ${c.sample[i]}${c.success[i] ? ", solved" : ""}` })));
      return { number: shown, title: wherefrom(index, shown), control: pick, compared: place > 0,
        note: `solved ${solved} of ${numbers.length}` };
    });
    return [h("p", { class: "small", text: "One episode of this task for each stage; the mark shows where an episode does something else than the one to its left." }),
      await drawColumns(run, index, columns, route)];
  }

  // -- The open episode ------------------------------------------------------------------

  let latest = 0;

  agentrl.drawDetail = async (node, state) => {
    const mine = (latest += 1);
    const { index, number, route } = state;
    toHash = state.toHash;
    if (!(number >= 0 && number < index.count)) {
      agentrl.replace(node, h("div", { class: "card problem", text: `There is no episode ${route.n}.` }));
      return;
    }
    const c = index.columns;
    const tab = ["group", "task"].includes(route.tab) ? route.tab : "episode";
    const draw = { episode: drawEpisode, group: drawGroup, task: drawTask }[tab];
    let content;
    try {
      content = await draw(state);
    } catch (error) {
      content = h("div", { class: "card problem", text: error.message });
    }
    if (mine !== latest) return;
    const tabs = [["episode", "episode"], ["group", `its group (${groupOf(index, number).length})`], ["task", "this task over the stages"]];
    const subset = index.subsets[c.item[number]];
    agentrl.replace(node,
      h("a", { class: "back", href: toHash({ ...route, n: null, turn: null, tab: null }), text: "\u2190 all episodes" }),
      h("div", { class: "between" },
        h("h2", {}, agentrl.chip(index.endings[c.ending[number]], c.success[number]), ` ${index.items[c.item[number]]}`),
        h("span", { class: "soft small", text: [index.environments[c.env[number]], subset, wherefrom(index, number),
          `sample ${c.sample[number]}`, agentrl.count(c.turns[number], "turn"), agentrl.count(c.tokens[number], "token"),
          `reward ${agentrl.compact(c.reward[number])}`].filter(Boolean).join(" \u00b7 ") })),
      h("div", { class: "tabs" }, tabs.map(([key, text]) =>
        h("a", { class: key === tab ? "on" : "", "data-tab": key, text,
          href: toHash({ ...route, n: number, tab: key === "episode" ? null : key, turn: null }) }))),
      content);
  };

  document.addEventListener("keydown", (event) => {
    if (/INPUT|SELECT|TEXTAREA/.test(event.target.tagName)) return;
    const name = { ArrowLeft: "before", ArrowRight: "next" }[event.key];
    const button = name && document.querySelector(`[data-do="${name}"]`);
    if (button && !button.disabled) button.click();
  });
})();
