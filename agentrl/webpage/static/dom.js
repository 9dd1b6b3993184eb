"use strict";
// Elements, numbers and colours that all parts of the page share. Text enters the page as
// text nodes only, so that nothing a policy or an environment wrote becomes markup.

const agentrl = {};

(() => {
  const SVG = "http://www.w3.org/2000/svg";

  function build(node, properties, children) {
    for (const [name, value] of Object.entries(properties || {})) {
      if (value === undefined || value === null || value === false) continue;
      if (name === "text") node.textContent = value;
      else if (name === "on") {
        for (const [event, handler] of Object.entries(value)) {
          node.addEventListener(event, handler);
        }
      } else if (name === "style") {
        for (const [key, one] of Object.entries(value)) node.style.setProperty(key, one);
      } else if (name === "value" || name === "checked" || name === "disabled") {
        node[name] = value;
      } else node.setAttribute(name, value === true ? "" : String(value));
    }
    append(node, children);
    return node;
  }

  function append(node, children) {
    for (const child of children) {
      if (child === null || child === undefined || child === false) continue;
      if (Array.isArray(child)) append(node, child);
      else if (child instanceof Node) node.appendChild(child);
      else node.appendChild(document.createTextNode(String(child)));
    }
  }

  // h("div", {class: "card"}, "text", node, [more])
  agentrl.h = (name, properties, ...children) =>
    build(document.createElement(name), properties, children);

  // The same for the elements of charts.
  agentrl.s = (name, properties, ...children) =>
    build(document.createElementNS(SVG, name), properties, children);

  agentrl.replace = (node, ...children) => {
    node.replaceChildren();
    append(node, children);
    return node;
  };

  // -- Numbers ---------------------------------------------------------------------------

  const MINUS = "\u2212";

  agentrl.fixed = (value, digits = 1) =>
    value === null || value === undefined || !isFinite(value)
      ? "\u2013"
      : value.toFixed(digits).replace("-", MINUS);

  agentrl.percent = (share, digits = 1) => agentrl.fixed(100 * share, digits);

  agentrl.signed = (value, digits = 1) => {
    const text = agentrl.fixed(value, digits);
    return value >= 0 ? `+${text}` : text;
  };

  // A number of any size in few characters: 0.00032, 1.25, 1,240, 3.1 M.
  agentrl.compact = (value) => {
    if (value === null || value === undefined || !isFinite(value)) return "\u2013";
    const size = Math.abs(value);
    if (size === 0) return "0";
    if (size < 1e-3) return value.toExponential(1).replace(".0e", "e").replace("e-", "e\u2212").replace(/^-/, MINUS);
    for (const [limit, unit] of [[1e15, "P"], [1e12, "T"], [1e9, "G"], [1e6, "M"], [1e4, "k"]]) {
      if (size >= limit) {
        const scale = unit === "k" ? 1e3 : limit;
        return `${trim((value / scale).toPrecision(3))} ${unit}`.replace("-", MINUS);
      }
    }
    return trim(value.toPrecision(size >= 1000 ? 4 : 3)).replace("-", MINUS);
  };

  function trim(text) {
    return text.includes(".") && !text.includes("e") ? text.replace(/\.?0+$/, "") : text;
  }

  agentrl.duration = (seconds) => {
    if (seconds === null || seconds === undefined || !isFinite(seconds)) return "\u2013";
    if (seconds < 60) return `${agentrl.fixed(seconds, seconds < 10 ? 1 : 0)} s`;
    if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
    return `${Math.floor(seconds / 3600)} h ${Math.round((seconds % 3600) / 60)} min`;
  };

  agentrl.count = (number, noun, plural = `${noun}s`) =>
    `${number.toLocaleString("en")} ${number === 1 ? noun : plural}`;

  // -- Colours and dashes ----------------------------------------------------------------
  // Categories differ in lightness as well as in hue, and lines in their dashes, so that
  // they can be told apart without colour, too.

  agentrl.NUM_COLORS = 8;
  agentrl.color = (index) => `var(--c${((index % 8) + 8) % 8})`;
  const DASHES = ["", "7 3", "2 3", "9 3 2 3", "5 2 1 2 1 2", "12 4", "4 4", "1 2"];
  agentrl.dash = (index) => DASHES[((index % 8) + 8) % 8];

  // -- Tooltip: one for the whole page ---------------------------------------------------

  let tooltip = null;

  agentrl.showTooltip = (event, lines) => {
    if (!tooltip) {
      tooltip = agentrl.h("div", { class: "tooltip", role: "status" });
      document.body.appendChild(tooltip);
    }
    agentrl.replace(tooltip, lines.map((line) => agentrl.h("div", {}, line)));
    tooltip.style.display = "block";
    const box = tooltip.getBoundingClientRect();
    const left = Math.min(event.clientX + 14, window.innerWidth - box.width - 8);
    const below = event.clientY + 16;
    const top = below + box.height > window.innerHeight ? event.clientY - box.height - 10 : below;
    tooltip.style.left = `${Math.max(4, left)}px`;
    tooltip.style.top = `${Math.max(4, top)}px`;
  };

  agentrl.hideTooltip = () => {
    if (tooltip) tooltip.style.display = "none";
  };

  // Draws into a node again whenever its width changes: draw(width) returns an element.
  agentrl.responsive = (draw, properties = {}) => {
    const node = agentrl.h("div", properties);
    let width = 0;
    const observer = new ResizeObserver(() => {
      const now = Math.round(node.clientWidth);
      if (!now || now === width) return;
      width = now;
      agentrl.replace(node, draw(width));
    });
    observer.observe(node);
    return node;
  };

  agentrl.section = (id, title, note, ...children) =>
    agentrl.h(
      "section",
      { id },
      agentrl.h("h2", { text: title }),
      note ? agentrl.h("p", { text: note }) : null,
      ...children,
    );

  agentrl.legend = (entries) =>
    agentrl.h(
      "div",
      { class: "legend small soft" },
      entries.map(([label, color, dash]) =>
        agentrl.h(
          "span",
          {},
          dash === undefined
            ? agentrl.h("i", { style: { background: color } })
            : agentrl.s(
                "svg",
                { width: 22, height: 8, class: "key" },
                agentrl.s("line", {
                  x1: 0, x2: 22, y1: 4, y2: 4, "stroke-width": 2.5,
                  "stroke-dasharray": dash, style: { stroke: color },
                }),
              ),
          label,
        ),
      ),
    );
})();
