"use strict";
// The trajectory viewer: filters, the list of episodes that pass them, and which one is open.
// The address after # says all of it, so that a view can be linked to and gone back from.

(() => {
  const { h, store } = agentrl;
  const PAGE = 60; // rows of the list at once
  const ENOUGH = 60; // episodes found by text before the search rests

  // -- Addresses -------------------------------------------------------------------------

  agentrl.readRoute = () => {
    const text = window.location.hash.slice(1);
    return text.includes("=") ? Object.fromEntries(new URLSearchParams(text)) : { anchor: text };
  };

  const toHash = (route) => {
    const kept = Object.entries(route).filter(([, v]) => v !== "" && v !== null && v !== undefined);
    return `#${new URLSearchParams(kept)}`;
  };

  agentrl.openEpisodes = (filters) => {
    window.location.hash = toHash({ view: "episodes", ...filters });
  };

  // A link to an episode of the run at hand.
  agentrl.episodeLink = (number, text, title) =>
    h("a", { href: toHash({ view: "episodes", run: agentrl.shownRun || null, n: number }), title, text });

  // -- Filters ---------------------------------------------------------------------------

  // name -> [label, choices of an index, test of an episode's number]
  const FILTERS = {
    kind: ["kind", () => ["evaluation", "training"], (index, i, v) => index.files[index.columns.file[i]].kind === v],
    stage: ["stage", (index) => [...new Set(index.files.map((f) => f.stage))],
      (index, i, v) => index.files[index.columns.file[i]].stage === v],
    env: ["environment", (index) => index.environments, (index, i, v) => index.environments[index.columns.env[i]] === v],
    subset: ["subset", (index) => [...new Set(index.subsets)].filter(Boolean).sort(),
      (index, i, v) => index.subsets[index.columns.item[i]] === v],
    ending: ["ending", (index) => index.endings, (index, i, v) => index.endings[index.columns.ending[i]] === v],
    tag: ["failure tag", (index) => index.tags, (index, i, v) => {
      const bit = index.tags.indexOf(v);
      return Math.floor(index.columns.tags[i] / 2 ** bit) % 2 === 1;
    }],
  };

  function find(index, route) {
    const tests = Object.entries(FILTERS).filter(([name]) => route[name])
      .map(([name, [, , test]]) => (i) => test(index, i, route[name]));
    const least = parseFloat(route.least);
    const most = parseFloat(route.most);
    if (!isNaN(least)) tests.push((i) => index.columns.reward[i] >= least);
    if (!isNaN(most)) tests.push((i) => index.columns.reward[i] <= most);
    if (route.iteration) tests.push((i) => index.columns.iteration[i] === Number(route.iteration));
    if (route.item) {
      const wanted = route.item.toLowerCase();
      const exact = index.items.indexOf(route.item);
      const matches = exact >= 0 ? new Set([exact])
        : new Set(index.items.flatMap((name, i) => (name.toLowerCase().includes(wanted) ? [i] : [])));
      tests.push((i) => matches.has(index.columns.item[i]));
    }
    const found = [];
    for (let i = index.count - 1; i >= 0; i -= 1) if (tests.every((test) => test(i))) found.push(i);
    return found;
  }

  // What an episode says, for the search.
  const textOf = (episode) => [...episode.turns.flatMap((t) => [t.observation, t.action]),
    episode.final_observation, episode.error || ""].join("\n").toLowerCase();

  // -- The view --------------------------------------------------------------------------

  let node = null; // of the whole view
  let drawn = ""; // what of the route the list shows
  let search = 0; // number of the search under way

  function select(name, label, choices, route) {
    return h("label", {}, h("span", { text: label }), h("select", {
      "data-filter": name, on: { change: (event) => change({ [name]: event.target.value }) },
    }, h("option", { value: "", text: "all" }), choices.map((choice) =>
      h("option", { value: choice, selected: route[name] === choice, text: choice }))));
  }

  function input(name, label, route, properties = {}) {
    return h("label", {}, h("span", { text: label }), h("input", {
      "data-filter": name, value: route[name] || "", type: "text", ...properties,
      on: { change: (event) => change({ [name]: event.target.value.trim() }) },
    }));
  }

  // Another filter: the list begins anew, the open episode stays only if it is asked for.
  function change(values) {
    const route = { ...agentrl.readRoute(), ...values };
    if (!("n" in values)) delete route.n;
    agentrl.openEpisodes(route);
  }

  function drawFilters(index, route) {
    const several = store.runs.length > 1;
    return h("form", { class: "filters card", on: { submit: (event) => event.preventDefault() } },
      several ? h("label", {}, h("span", { text: "run" }), h("select", {
        "data-filter": "run", on: { change: (event) => agentrl.openEpisodes({ run: event.target.value }) },
      }, store.runs.map((_, i) => h("option", { value: i, selected: i === Number(route.run || 0),
        text: agentrl.runName(i) })))) : null,
      Object.entries(FILTERS).map(([name, [label, choices]]) => {
        const listed = choices(index);
        return listed.length ? select(name, label, listed, route) : null;
      }),
      input("iteration", "iteration", route, { inputmode: "numeric" }),
      input("item", "task", route),
      input("least", "reward from", route, { inputmode: "decimal" }),
      input("most", "reward to", route, { inputmode: "decimal" }),
      input("text", "text", route, { class: "wide", placeholder: "in observations and actions" }));
  }

  function drawRow(index, i, route) {
    const c = index.columns;
    const file = index.files[c.file[i]];
    const tag = c.tag[i] >= 0 ? index.tags[c.tag[i]] : "";
    return h("a", { class: String(i) === route.n ? "row open" : "row", "data-episode": i,
      href: toHash({ ...route, view: "episodes", n: i }) },
      agentrl.chip(index.endings[c.ending[i]], c.success[i]),
      h("b", { text: index.items[c.item[i]] }),
      h("span", { class: "soft small", text:
        `${file.stage}${file.kind === "evaluation" ? ", evaluation" : `, iteration ${c.iteration[i]}`} \u00b7 ` +
        `${agentrl.count(c.turns[i], "turn")} \u00b7 reward ${agentrl.compact(c.reward[i])}${tag ? ` \u00b7 ${tag}` : ""}` }));
  }

  agentrl.chip = (text, good) => h("span", { class: good ? "chip good" : "chip bad" }, good ? "\u2713 " : "\u2717 ", text);

  function drawList(index, numbers, route, list) {
    let shown = 0;
    const more = h("button", { type: "button", on: { click: () => extend() } });
    const extend = () => {
      const next = numbers.slice(shown, shown + PAGE);
      for (const i of next) list.insertBefore(drawRow(index, i, route), more);
      shown += next.length;
      more.hidden = shown >= numbers.length;
      more.textContent = `${(numbers.length - shown).toLocaleString("en")} more`;
    };
    agentrl.replace(list, h("div", { class: "soft small count", text:
      `${numbers.length.toLocaleString("en")} of ${agentrl.count(index.count, "episode")}, newest first` }), more);
    extend();
  }

  // Reads chunk after chunk of what passes the other filters, the newest first.
  async function searchText(run, index, numbers, route, list) {
    const mine = (search += 1);
    const wanted = route.text.toLowerCase();
    let at = 0;
    const status = h("div", { class: "soft small count" });
    const more = h("button", { type: "button", text: "search on", hidden: true });
    agentrl.replace(list, status, more);
    const go = async () => {
      more.hidden = true;
      let found = 0;
      try {
        while (at < numbers.length && found < ENOUGH) {
          const episode = await store.episode(run, numbers[at]);
          if (mine !== search) return;
          if (textOf(episode).includes(wanted)) {
            list.insertBefore(drawRow(index, numbers[at], route), more);
            found += 1;
          }
          at += 1;
          if (at % 500 === 0) status.textContent = `searching: ${at.toLocaleString("en")} of ${numbers.length.toLocaleString("en")} read`;
        }
      } catch (error) {
        status.textContent = error.message;
        return;
      }
      const rows = list.querySelectorAll(".row").length;
      status.textContent = `${agentrl.count(rows, "episode")} found, ${at.toLocaleString("en")} of ${numbers.length.toLocaleString("en")} read`;
      more.hidden = at >= numbers.length;
    };
    more.addEventListener("click", go);
    await go();
  }

  // Offers what a live run has stored since the list was drawn; it does not move by itself.
  agentrl.noteNewEpisodes = (app, route) => {
    const list = node && node.index && node.querySelector(".list");
    if (!list) return;
    const told = store.runs[Number(route.run || 0)].episodes;
    const anew = told.generation !== node.index.generation;
    const fresh = anew ? told.total : told.total - node.index.count;
    let button = list.querySelector(".fresh");
    if (!fresh && !anew) {
      if (button) button.remove();
      return;
    }
    if (!button) {
      button = h("button", { class: "fresh", type: "button", on: { click: () => {
        drawn = "";
        agentrl.drawEpisodes(app, agentrl.readRoute());
      } } });
      list.prepend(button);
    }
    button.textContent = anew ? "The run was resumed: read its episodes anew"
      : `Show ${agentrl.count(fresh, "new episode")}`;
  };

  function markOpen(route) {
    for (const row of node.querySelectorAll(".row")) {
      row.classList.toggle("open", row.getAttribute("data-episode") === route.n);
      const there = Object.fromEntries(new URLSearchParams(row.hash.slice(1)));
      row.href = toHash({ ...route, n: there.n });
    }
    const open = node.querySelector(".row.open");
    if (open && window.matchMedia("(min-width: 861px)").matches) open.scrollIntoView({ block: "nearest" });
  }

  // Draws the view into `app`; called again whenever the address changes.
  agentrl.drawEpisodes = async (app, route) => {
    const run = Number(route.run || 0);
    const { n, tab, turn, color, against, ...filters } = route;
    const key = JSON.stringify(filters);
    if (!node || !app.contains(node) || key !== drawn) {
      node = h("div", { class: "viewer" }, h("div", { class: "soft", text: "Reading the episodes\u2026" }));
      drawn = key;
      agentrl.replace(app, node);
      let index;
      try {
        index = await store.index(run);
      } catch (error) {
        agentrl.replace(node, h("div", { class: "card problem", text: error.message }));
        return;
      }
      if (drawn !== key) return;
      if (!index.count) {
        agentrl.replace(node, h("div", { class: "card", text:
          "No episodes are stored yet: demonstrations are not, and reinforcement has not begun." }));
        return;
      }
      const list = h("nav", { class: "list card", "aria-label": "episodes" });
      const detail = h("div", { class: "detail" });
      agentrl.replace(node, drawFilters(index, route), list, detail);
      const numbers = find(index, route);
      if (route.text) searchText(run, index, numbers, route, list);
      else drawList(index, numbers, route, list);
      node.index = index;
      node.first = numbers[0];
    }
    markOpen(route);
    const detail = node.querySelector(".detail");
    if (!detail) return;
    node.classList.toggle("reading", Boolean(n));
    const number = n !== undefined ? Number(n) : route.text ? undefined : node.first;
    if (number === undefined) {
      agentrl.replace(detail, h("div", { class: "card soft", text: "No episode passes these filters." }));
      return;
    }
    await agentrl.drawDetail(detail, { run, index: node.index, number, route, toHash });
  };
})();
