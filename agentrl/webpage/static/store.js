"use strict";
// Where data come from: blocks of this page, files beside it, or a server that is asked again
// and again. The rest of the page does not know which.

(() => {
  const INDEX_AT_ONCE = 20000;
  const LIVE_CHUNK = 200;

  const element = document.getElementById("state");
  const frozen = element ? JSON.parse(element.textContent) : null;
  const listeners = [];
  const waiting = new Map(); // name of a chunk -> what to do when its file has arrived

  const store = {
    live: !frozen,
    runs: [], // {overview, curves, results, failures, episodes}
    together: null,
    connection: "",
    onChange: (listener) => listeners.push(listener),
  };
  agentrl.store = store;

  function tell(changed) {
    for (const listener of listeners) listener(changed);
  }

  // -- Frozen ----------------------------------------------------------------------------

  async function unpack(text) {
    const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return JSON.parse(await new Response(stream).text());
  }

  // Files of chunks call this.
  agentrl.receiveChunk = (name, text) => {
    const known = waiting.get(name);
    if (known) known(text);
  };

  function loadFile(name) {
    return new Promise((resolve, reject) => {
      waiting.set(name, resolve);
      const script = document.createElement("script");
      script.src = `${frozen.folder}/${name}.js`;
      script.onload = () => script.remove();
      script.onerror = () => reject(new Error(
        `These episodes are in ${frozen.folder}/${name}.js, which is not beside this page. ` +
        "Keep the folder with the page, or write the report again with agentrl report."));
      document.head.appendChild(script);
    }).finally(() => waiting.delete(name));
  }

  async function frozenChunk(run, place) {
    const name = `episodes_${run}_${String(place).padStart(4, "0")}`;
    const block = document.getElementById(name);
    return unpack(block ? block.textContent : await loadFile(name));
  }

  // -- Live ------------------------------------------------------------------------------

  // The token is in the address once, then in this tab alone.
  function takeToken() {
    const address = new URL(window.location.href);
    const given = address.searchParams.get("token");
    if (given) {
      window.sessionStorage.setItem("agentrl-token", given);
      address.searchParams.delete("token");
      window.history.replaceState(null, "", address);
    }
    return given || window.sessionStorage.getItem("agentrl-token") || "";
  }

  const token = frozen ? "" : takeToken();

  async function ask(path) {
    const answer = await fetch(path, { headers: { Authorization: `Bearer ${token}` }, cache: "no-store" });
    if (answer.status === 401) {
      throw new Error("This address lacks its token: open the one that agentrl watch has printed.");
    }
    if (!answer.ok) throw new Error(await answer.text());
    return answer.json();
  }

  let have = "";

  async function poll() {
    try {
      const state = await ask(`api/state?have=${encodeURIComponent(have)}`);
      store.connection = "";
      const changed = new Set();
      state.runs.forEach((sections, number) => {
        store.runs[number] = store.runs[number] || {};
        for (const [name, value] of Object.entries(sections)) {
          store.runs[number][name] = value;
          changed.add(name);
        }
      });
      if (state.together !== undefined) {
        store.together = state.together;
        changed.add("together");
      }
      have = state.have;
      tell(changed);
    } catch (error) {
      store.connection = error instanceof TypeError
        ? "agentrl watch does not answer; the page shows what it had" : error.message;
      tell(new Set(["connection"]));
    }
    window.setTimeout(poll, document.hidden ? 15000 : 2000);
  }

  // -- Episodes --------------------------------------------------------------------------

  const indices = []; // by run

  function emptyIndex() {
    return { generation: null, total: 0, count: 0, files: [], environments: [], endings: [],
      tags: [], items: [], subsets: [], columns: {}, lines: [] };
  }

  function extend(index, part) {
    if (index.generation !== part.generation) Object.assign(index, emptyIndex());
    if (part.first !== index.count) return;
    index.generation = part.generation;
    index.total = part.total;
    for (const name of ["files", "environments", "endings", "tags"]) index[name] = part[name];
    for (const name of part.items) index.items.push(name);
    for (const name of part.subsets) index.subsets.push(name);
    for (const [name, values] of Object.entries(part.columns)) {
      const column = index.columns[name] || (index.columns[name] = []);
      for (const value of values) column.push(value);
    }
    const next = new Map(); // line numbers count within a file
    for (let i = index.count - 1; i >= 0 && next.size < index.files.length; i -= 1) {
      const file = index.columns.file[i];
      if (!next.has(file)) next.set(file, index.lines[i] + 1);
    }
    for (let i = index.count; i < part.first + part.count; i += 1) {
      const file = index.columns.file[i];
      const line = next.get(file) || 1;
      index.lines.push(line);
      next.set(file, line + 1);
    }
    index.count += part.count;
  }

  // The columns of all episodes; in a live page call it again for those that are new.
  store.index = async (run) => {
    const index = indices[run] || (indices[run] = emptyIndex());
    if (frozen) {
      if (index.generation === null) {
        extend(index, await unpack(document.getElementById(`index-${run}`).textContent));
      }
      return index;
    }
    for (let more = true; more;) {
      const part = await ask(`api/index?run=${run}&first=${index.count}` +
        `&items=${index.items.length}&count=${INDEX_AT_ONCE}&generation=${index.generation || 0}`);
      if (part.generation !== index.generation && part.first > 0) Object.assign(index, emptyIndex());
      else extend(index, part);
      more = index.count < part.total;
    }
    return index;
  };

  const loaded = new Map(); // the last few chunks
  const size = frozen ? frozen.chunk : LIVE_CHUNK;

  // Consecutive episodes; a live chunk at the end may still grow and is not kept.
  store.chunk = async (run, place) => {
    const index = await store.index(run);
    const key = `${run}:${index.generation}:${place}`;
    if (loaded.has(key)) return loaded.get(key);
    const whole = (place + 1) * size <= index.count;
    const pending = frozen
      ? frozenChunk(run, place)
      : ask(`api/episodes?run=${run}&first=${place * size}&count=${size}&generation=${index.generation}`);
    if (frozen || whole) {
      loaded.set(key, pending);
      pending.catch(() => loaded.delete(key));
      if (loaded.size > 24) loaded.delete(loaded.keys().next().value);
    }
    return pending;
  };

  store.chunkSize = size;

  store.episode = async (run, number) => {
    const chunk = await store.chunk(run, Math.floor(number / size));
    const episode = chunk[number % size];
    if (!episode) throw new Error(`There is no episode ${number}.`);
    return episode;
  };

  store.start = () => {
    if (!frozen) {
      poll();
      return;
    }
    store.runs = frozen.runs;
    store.together = frozen.together;
    tell(new Set(["overview", "curves", "results", "failures", "episodes", "together"]));
  };
})();
