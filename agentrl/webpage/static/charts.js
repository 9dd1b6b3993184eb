"use strict";
// Charts as SVG: lines over iterations, dots with intervals, bars of changes and counts.

(() => {
  const { s, h } = agentrl;
  const FONT = 12;

  // Round numbers between two ends, about `count` of them.
  function ticks(low, high, count) {
    const span = high - low || 1;
    const rough = span / Math.max(1, count);
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((one) => one >= rough * 0.999);
    const found = [];
    for (let at = Math.ceil(low / step - 1e-9) * step; at <= high + step * 1e-9; at += step) {
      found.push(Math.abs(at) < step * 1e-9 ? 0 : at);
    }
    return found;
  }

  // Powers of ten; within few of them their twofold and fivefold, too.
  function logTicks(low, high) {
    const first = Math.floor(Math.log10(low));
    const last = Math.ceil(Math.log10(high));
    const span = Math.log10(high / low);
    const step = Math.max(1, Math.ceil(span / 4));
    const found = [];
    for (let power = first; power <= last; power += step) {
      for (const factor of span < 2.2 ? [1, 2, 5] : [1]) found.push(factor * 10 ** power);
    }
    return found.filter((at) => at >= low * 0.999 && at <= high * 1.001);
  }

  // An axis from values to pixels. kind: linear, percent, log.
  function scale(values, kind, from, to) {
    const finite = values.filter((v) => v !== null && isFinite(v) && (kind !== "log" || v > 0));
    let low = Math.min(...finite);
    let high = Math.max(...finite);
    if (!finite.length) [low, high] = [0, 1];
    if (kind === "log" && finite.length) {
      [low, high] = high / low < 2 ? [low / 2, high * 2] : [low / 1.15, high * 1.15];
      const span = Math.log10(high / low);
      return {
        at: (v) => (v > 0 ? from + ((to - from) * Math.log10(v / low)) / span : null),
        ticks: logTicks(low, high),
        format: (v) => agentrl.compact(v),
      };
    }
    if (kind === "percent") {
      low = Math.min(0, low);
      high = high > 0.6 ? Math.max(1, high) : high > 0.3 ? 0.6 : high > 0.12 ? 0.3 : 0.12;
    } else if (low === high) {
      const room = Math.abs(low) * 0.1 || 1;
      [low, high] = [low - room, high + room];
    } else {
      if (low > 0 && low < 0.5 * high) low = 0;
      const room = 0.04 * (high - low);
      if (low !== 0) low -= room;
      high += room;
    }
    return {
      at: (v) => from + ((to - from) * (v - low)) / (high - low),
      ticks: ticks(low, high, Math.abs(to - from) / 36),
      format: (v) => (kind === "percent" ? `${trimmed(100 * v)} %` : agentrl.compact(v)),
    };
  }

  const trimmed = (v) => String(Math.round(v * 10) / 10);

  function path(points) {
    let text = "";
    let pen = false;
    for (const [x, y] of points) {
      if (y === null || !isFinite(y)) {
        pen = false;
        continue;
      }
      text += `${pen ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`;
      pen = true;
    }
    return text;
  }

  // Means over neighbours on both sides within the same part; gaps stay gaps.
  function smooth(values, parts) {
    const found = new Array(values.length).fill(null);
    for (const [first, end] of parts) {
      const reach = Math.max(1, Math.round((end - first) / 24));
      for (let i = first; i < end; i += 1) {
        if (values[i] === null) continue;
        let sum = 0;
        let number = 0;
        for (let j = Math.max(first, i - reach); j < Math.min(end, i + reach + 1); j += 1) {
          if (values[j] === null) continue;
          sum += values[j];
          number += 1;
        }
        found[i] = sum / number;
      }
    }
    return found;
  }

  // Cuts text to about a width; the whole of it is in the tooltip.
  function fit(text, width) {
    const room = Math.floor(width / (FONT * 0.56));
    if (text.length <= room) return text;
    return room < 3 ? "" : `${text.slice(0, room - 1)}\u2026`;
  }

  // options:
  //   series    [{label, x, y, low?, high?, color, dash}] x ascending
  //   parts     [{from, to, label}] stages on the x axis
  //   kind      of the y axis: linear, percent, log
  //   xLabel, yLabel
  //   height
  agentrl.lineChart = (options) =>
    agentrl.responsive((width) => drawLines(options, width), { class: "chart" });

  function drawLines(options, width) {
    const { series, parts = [], kind = "linear", xLabel, yLabel, height = 200 } = options;
    const left = 52;
    const right = width - 12;
    const top = parts.length ? 40 : 22;
    const bottom = height - 36;
    const xs = series.flatMap((one) => [one.x[0], one.x[one.x.length - 1]]);
    const ends = parts.length ? [parts[0].from, parts[parts.length - 1].to] : xs;
    const x0 = Math.min(...ends);
    const x1 = Math.max(...ends) > x0 ? Math.max(...ends) : x0 + 1;
    const toX = (v) => left + ((right - left) * (v - x0)) / (x1 - x0);
    const shown = series.flatMap((one) => [...one.y, ...(one.low || []), ...(one.high || [])]);
    const y = scale(shown, kind, bottom, top);
    const svg = s("svg", {
      viewBox: `0 0 ${width} ${height}`, width, height, role: "img", tabindex: 0,
      "aria-label": describe(series, yLabel),
    });
    parts.forEach((part, index) => {
      const a = toX(part.from);
      const b = toX(part.to);
      svg.append(
        s("rect", { x: a, y: top - 20, width: Math.max(0, b - a), height: bottom - top + 20,
          class: index % 2 ? "band odd" : "band" }),
        s("text", { x: a + 4, y: top - 6, class: "part" }, s("title", { text: part.label }),
          fit(part.label, b - a - 6)),
      );
    });
    for (const tick of y.ticks) {
      const at = y.at(tick);
      svg.append(
        s("line", { x1: left, x2: right, y1: at, y2: at, class: "grid" }),
        s("text", { x: left - 6, y: at + 4, "text-anchor": "end" }, y.format(tick)),
      );
    }
    for (const tick of ticks(x0, x1, (right - left) / 58)) {
      if (!options.fractions && tick !== Math.round(tick)) continue;
      svg.append(
        s("line", { x1: toX(tick), x2: toX(tick), y1: bottom, y2: bottom + 4, class: "axis" }),
        s("text", { x: toX(tick), y: bottom + 16, "text-anchor": "middle" }, agentrl.compact(tick)),
      );
    }
    svg.append(
      s("line", { x1: left, x2: right, y1: bottom, y2: bottom, class: "axis" }),
      s("text", { x: right, y: height - 4, "text-anchor": "end", class: "name" }, xLabel || ""),
      s("text", { x: 0, y: 12, class: "name" }, fit(yLabel || "", width)),
    );
    for (const one of series) drawSeries(svg, one, toX, y, parts);
    hover(svg, { series, parts, toX, y, left, right, top, bottom, xLabel });
    return svg;
  }

  function drawSeries(svg, one, toX, y, parts) {
    const stroke = { stroke: one.color };
    const at = (values) => one.x.map((x, i) => [toX(x), values[i] === null ? null : y.at(values[i])]);
    const ranges = [];
    let first = 0;
    for (let i = 1; i <= one.x.length; i += 1) {
      const border = i === one.x.length ||
        parts.some((p) => one.x[i - 1] <= p.from && one.x[i] > p.from && p.from > 0);
      if (border) {
        ranges.push([first, i]);
        first = i;
      }
    }
    const pieces = ranges.length ? ranges : [[0, one.x.length]];
    if (one.low) {
      const [high, low] = [one.high, one.low].map((values) => at(smooth(values, pieces)));
      for (const [a, b] of pieces) {
        const outline = [...high.slice(a, b), ...low.slice(a, b).reverse()].filter((p) => p[1] !== null);
        if (outline.length) {
          svg.append(s("path", { d: `${path(outline)}Z`, class: "spread", style: { fill: one.color } }));
        }
      }
    }
    const even = smooth(one.y, pieces);
    for (const [a, b] of pieces) {
      if (!one.low) {
        svg.append(s("path", { d: path(at(one.y).slice(a, b)), class: "raw", style: stroke }));
      }
      svg.append(s("path", { d: path(at(even).slice(a, b)), class: "line", style: stroke,
        "stroke-dasharray": one.dash || undefined }));
    }
    const known = one.y.filter((v) => v !== null).length;
    if (known === 1) {
      const i = one.y.findIndex((v) => v !== null);
      svg.append(s("circle", { cx: toX(one.x[i]), cy: y.at(one.y[i]), r: 3.5, style: { fill: one.color } }));
    }
  }

  function describe(series, yLabel) {
    const last = series.map((one) => {
      const known = one.y.filter((v) => v !== null);
      return known.length ? `${one.label || "value"} ends at ${agentrl.compact(known[known.length - 1])}` : "";
    });
    return `${yLabel}: ${last.filter(Boolean).join(", ")}`;
  }

  function hover(svg, { series, parts, toX, y, left, right, top, bottom, xLabel }) {
    const line = s("line", { y1: top, y2: bottom, class: "cursor", visibility: "hidden" });
    svg.append(line);
    const leave = () => {
      line.setAttribute("visibility", "hidden");
      agentrl.hideTooltip();
    };
    svg.addEventListener("pointermove", (event) => {
      const box = svg.getBoundingClientRect();
      const at = ((event.clientX - box.left) * svg.viewBox.baseVal.width) / box.width;
      if (at < left - 8 || at > right + 8) return leave();
      let best = null;
      for (const one of series) {
        for (const x of one.x) {
          if (best === null || Math.abs(toX(x) - at) < Math.abs(toX(best) - at)) best = x;
        }
      }
      if (best === null) return leave();
      line.setAttribute("x1", toX(best));
      line.setAttribute("x2", toX(best));
      line.setAttribute("visibility", "visible");
      const part = parts.find((p) => best > p.from && best <= p.to);
      const lines = [`${xLabel || ""} ${agentrl.compact(best)}${part ? `, ${part.label}` : ""}`];
      for (const one of series) {
        const i = one.x.indexOf(best);
        if (i >= 0 && one.y[i] !== null) lines.push(`${one.label || ""} ${y.format(one.y[i])}`.trim());
      }
      agentrl.showTooltip(event, lines);
    });
    svg.addEventListener("pointerleave", leave);
  }

  // Rows of a share with its interval on an axis from 0 to 100 %.
  //   rows [{label, mean, low, high, color, hollow, note}]
  agentrl.dotChart = (options) =>
    agentrl.responsive((width) => drawDots(options, width), { class: "chart" });

  function drawDots({ rows, xLabel, from = 0, to = 1, signed = false }, width) {
    const step = 30;
    const left = Math.min(170, Math.max(96, width * 0.3));
    const narrow = width < 380; // the whiskers have to say it alone
    const right = width - (narrow ? 56 : 132);
    const height = rows.length * step + 42;
    const toX = (v) => left + ((right - left) * (v - from)) / (to - from);
    const svg = s("svg", {
      viewBox: `0 0 ${width} ${height}`, width, height, role: "img",
      "aria-label": rows.map((r) => `${r.label} ${agentrl.percent(r.mean)}`).join(", "),
    });
    for (const tick of ticks(from, to, (right - left) / 60)) {
      svg.append(
        s("line", { x1: toX(tick), x2: toX(tick), y1: 0, y2: height - 36,
          class: tick === 0 ? "axis" : "grid" }),
        s("text", { x: toX(tick), y: height - 22, "text-anchor": "middle" },
          signed && tick ? agentrl.signed(100 * tick, 0) : trimmed(100 * tick)),
      );
    }
    svg.append(s("text", { x: (left + right) / 2, y: height - 5, "text-anchor": "middle",
      class: "name" }, fit(xLabel, width - 8)));
    rows.forEach((row, index) => {
      const cy = index * step + 15;
      const style = { stroke: row.color, fill: row.hollow ? "var(--card)" : row.color };
      svg.append(
        s("text", { x: 0, y: cy + 4, class: "label" }, s("title", { text: row.label }),
          fit(row.label, left - 8)),
        s("line", { x1: toX(row.low), x2: toX(row.high), y1: cy, y2: cy, class: "whisker",
          style: { stroke: row.color } }),
        s("line", { x1: toX(row.low), x2: toX(row.low), y1: cy - 4, y2: cy + 4, class: "whisker end",
          style: { stroke: row.color } }),
        s("line", { x1: toX(row.high), x2: toX(row.high), y1: cy - 4, y2: cy + 4, class: "whisker end",
          style: { stroke: row.color } }),
        s("circle", { cx: toX(row.mean), cy, r: 5.5, style, "stroke-width": 2 }),
        s("text", { x: right + 12, y: cy + 4, class: "number" },
          s("tspan", { class: "strong" }, signed ? agentrl.signed(100 * row.mean) : agentrl.percent(row.mean)),
          narrow ? null : s("tspan", { class: "soft", dx: 5 },
            `${agentrl.percent(row.low)} to ${agentrl.percent(row.high)}`)),
      );
    });
    return svg;
  }

  // Changes of single tasks, the largest loss first; a click on a bar opens the task.
  //   values [{label, change, note}]
  agentrl.changeChart = (options) =>
    agentrl.responsive((width) => drawChanges(options, width), { class: "chart" });

  function drawChanges({ values, onClick, yLabel, xLabel, height = 190 }, width) {
    const sorted = [...values].sort((a, b) => a.change - b.change);
    const left = 52;
    const right = width - 8;
    const top = 24;
    const bottom = height - 24;
    const toY = (v) => top + ((bottom - top) * (1 - v)) / 2;
    const step = (right - left) / Math.max(1, sorted.length);
    const svg = s("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img",
      "aria-label": `${yLabel}: ${sorted.map((v) => agentrl.signed(100 * v.change, 0)).join(" ")}` });
    for (const tick of [-1, -0.5, 0, 0.5, 1]) {
      svg.append(
        s("line", { x1: left, x2: right, y1: toY(tick), y2: toY(tick), class: tick ? "grid" : "axis" }),
        s("text", { x: left - 6, y: toY(tick) + 4, "text-anchor": "end" }, tick ? agentrl.signed(100 * tick, 0) : "0"),
      );
    }
    svg.append(
      s("text", { x: 0, y: 12, class: "name" }, fit(yLabel, width)),
      s("text", { x: right, y: height - 6, "text-anchor": "end", class: "name" }, xLabel),
    );
    sorted.forEach((value, index) => {
      const a = toY(Math.max(0, value.change));
      const size = Math.max(1.5, Math.abs(toY(value.change) - toY(0)));
      const kind = value.change > 0 ? "won" : value.change < 0 ? "lost" : "same";
      const bar = s("rect", { x: left + index * step, y: value.change ? a : toY(0) - 1, height: size,
        width: Math.max(1, step - (step > 4 ? 1.5 : 0.3)), class: kind });
      const target = s("rect", { x: left + index * step, y: top, height: bottom - top, width: step,
        class: onClick ? "target click" : "target",
        on: {
          pointermove: (event) => agentrl.showTooltip(event, [value.label, value.note]),
          pointerleave: agentrl.hideTooltip,
          click: () => onClick && onClick(value),
        } });
      svg.append(bar, target);
    });
    return svg;
  }

  // Episodes by number of turns: bars of all, and the part of them that succeeded.
  agentrl.turnChart = (options) =>
    agentrl.responsive((width) => drawTurns(options, width), { class: "chart" });

  function drawTurns({ counts, most, last, title, height = 170 }, width) {
    const left = 40;
    const right = width - 6;
    const top = 24;
    const bottom = height - 34;
    const toY = (v) => bottom - ((bottom - top) * v) / Math.max(1, most);
    const step = (right - left) / last;
    const svg = s("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img",
      "aria-label": title });
    for (const tick of ticks(0, most, 3)) {
      svg.append(
        s("line", { x1: left, x2: right, y1: toY(tick), y2: toY(tick), class: "grid" }),
        s("text", { x: left - 6, y: toY(tick) + 4, "text-anchor": "end" }, agentrl.compact(tick)),
      );
    }
    for (let turns = 1; turns <= last; turns += 1) {
      const [all, solved] = counts[turns] || [0, 0];
      const x = left + (turns - 1) * step;
      const bar = Math.max(1, step - Math.min(4, step * 0.2));
      svg.append(
        s("rect", { x, y: toY(all), width: bar, height: bottom - toY(all), class: "same" }),
        s("rect", { x, y: toY(solved), width: bar, height: bottom - toY(solved), class: "won" }),
        s("rect", { x, y: top, width: step, height: bottom - top, class: "target", on: {
          pointermove: (event) => agentrl.showTooltip(event, [
            agentrl.count(turns, "turn"),
            `${solved} of ${agentrl.count(all, "episode")} solved${all ? `, ${agentrl.percent(solved / all, 0)} %` : ""}`,
          ]),
          pointerleave: agentrl.hideTooltip,
        } }),
      );
    }
    for (const tick of ticks(1, last, Math.min(last, (right - left) / 40))) {
      if (tick < 1 || tick !== Math.round(tick)) continue;
      svg.append(s("text", { x: left + (tick - 0.5) * step, y: bottom + 15, "text-anchor": "middle" }, tick));
    }
    svg.append(
      s("line", { x1: left, x2: right, y1: bottom, y2: bottom, class: "axis" }),
      s("text", { x: 0, y: 12, class: "name" }, fit(title, width)),
      s("text", { x: right, y: height - 4, "text-anchor": "end", class: "name" }, "turns"),
    );
    return svg;
  }

  // A bar of parts, with a legend that carries the numbers.
  //   parts [{label, amount, text, color}]
  agentrl.stackedBar = (label, note, parts) => {
    const total = parts.reduce((sum, part) => sum + part.amount, 0) || 1;
    const shown = parts.filter((part) => part.amount > 0.001 * total);
    return h(
      "div",
      {},
      h("div", { class: "between" }, h("h3", { text: label }), h("span", { class: "soft small", text: note })),
      h("div", { class: "bar" }, shown.map((part) =>
        h("span", { style: { flex: String(part.amount / total), background: part.color },
          title: `${part.label}: ${part.text}` }))),
      agentrl.legend(shown.map((part) => [
        `${part.label} ${agentrl.percent(part.amount / total, 0)} % (${part.text})`, part.color])),
    );
  };
})();
