"use strict";
// Tables of numbers with intervals. A share has a bar from 0 to 100 %, a change one from the
// middle: its length is the number, its whisker the interval, its side and colour the sign.

(() => {
  const { h } = agentrl;

  // One axis for the changes of several tables, so that equal changes are equally long.
  agentrl.changeLimit = (tables) => {
    const span = Math.max(0.1, ...tables.flatMap((table) => table.rows.flatMap((row) =>
      row.cells.filter((c) => c.mean !== undefined && c.scale !== "share")
        .map((c) => Math.max(Math.abs(c.low), Math.abs(c.high))))));
    return Math.min(1, Math.ceil(span * 10) / 10);
  };

  // table: {title, note, first, columns, rows: [{label, cells}]}; see `table_to_json`.
  // limit: where the bars of changes end; see `changeLimit`.
  agentrl.table = (table, { wide = 132, title = true, limit = agentrl.changeLimit([table]) } = {}) => {
    const element = h(
      "table",
      { style: { "min-width": `${wide * (table.columns.length + 1)}px` } },
      h("thead", {}, h("tr", {}, h("th", { scope: "col", text: table.first }),
        table.columns.map((name) => h("th", { scope: "col", text: name })))),
      h("tbody", {}, table.rows.map((row) =>
        h("tr", {}, h("th", { scope: "row", text: row.label }),
          row.cells.map((cell) => h("td", {}, drawCell(cell, limit)))))),
    );
    return h(
      "div",
      { class: "table" },
      title && table.title ? h("h3", { text: table.title }) : null,
      table.note ? h("p", { class: "small", text: table.note }) : null,
      h("div", { class: "card scroll", tabindex: 0 }, element),
    );
  };

  function drawCell(cell, limit) {
    if (!cell.text) return h("span", { class: "soft", text: "\u2013" });
    return [
      h("b", { class: cell.emphasis ? "strong" : null, text: cell.text }),
      cell.mean === undefined ? null : drawRange(cell, limit),
      cell.note ? h("small", { text: cell.note }) : null,
      cell.mark ? h("small", {}, h("span", { class: "mark", text: cell.mark })) : null,
      cell.links ? h("small", {}, "read ", cell.links.map(([name, number], index) =>
        [index ? ", " : "", agentrl.episodeLink(number, String(index + 1), name)])) : null,
    ];
  }

  function drawRange(cell, limit) {
    const change = cell.scale !== "share";
    const place = (v) => (change ? 50 + (50 * Math.max(-limit, Math.min(limit, v))) / limit : 100 * v);
    const zero = change ? 50 : 0;
    const at = place(cell.mean);
    const good = cell.scale === "loss" ? cell.mean < 0 : cell.mean >= 0;
    return h(
      "span",
      { class: change ? "range change" : "range", "aria-hidden": "true" },
      h("i", { class: good ? "fill good" : "fill bad",
        style: { left: `${Math.min(zero, at)}%`, width: `${Math.abs(at - zero)}%` } }),
      h("u", { style: { left: `${place(cell.low)}%`, width: `${place(cell.high) - place(cell.low)}%` } }),
      change ? h("s", {}) : null,
    );
  }

  // A table of plain texts, the first column as names.
  agentrl.plainTable = (columns, rows) =>
    h("div", { class: "card scroll", tabindex: 0 },
      h("table", { class: "plain" },
        h("thead", {}, h("tr", {}, columns.map((name) => h("th", { scope: "col", text: name })))),
        h("tbody", {}, rows.map(([name, ...cells]) => h("tr", {}, h("th", { scope: "row" }, name),
          cells.map((cell) => h("td", {}, cell)))))));
})();
