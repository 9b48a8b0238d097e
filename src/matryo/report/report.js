"use strict";
(() => {
  const charts = JSON.parse(document.getElementById("charts").textContent);
  const dark = matchMedia("screen and (prefers-color-scheme: dark)");
  const paper = matchMedia("print");
  const narrow = matchMedia("(max-width: 640px)");
  const bodies = document.querySelectorAll("tbody[data-measure]");
  const config = { responsive: true, displayModeBar: false };
  let chosen = 0;

  // A chart names the page's CSS variables; this puts in what they are in the scheme of the moment.
  function themed(value, style) {
    if (Array.isArray(value)) return value.map((item) => themed(item, style));
    if (value !== null && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, themed(v, style)]));
    }
    const name = typeof value === "string" && value.match(/^var\((--[\w-]+)\)(?: \/ ([\d.]+))?$/);
    if (!name) return value;
    const color = style.getPropertyValue(name[1]).trim();
    if (!name[2]) return color;
    const [red, green, blue] = [1, 3, 5].map((at) => parseInt(color.slice(at, at + 2), 16));
    return `rgba(${red}, ${green}, ${blue}, ${name[2]})`;
  }

  function draw() {
    const style = getComputedStyle(document.documentElement);
    for (const [id, figures] of Object.entries(charts)) {
      // a chart that has only one figure shows it whatever was chosen
      const figure = figures[figures.length > 1 ? chosen : 0];
      if (!figure) continue;
      const { data, layout, narrow: changes } = themed(figure, style);
      for (const [path, value] of Object.entries(narrow.matches ? changes : {})) {
        const [part, name] = path.split(".");
        layout[part][name] = value;
      }
      layout.font.family = getComputedStyle(document.body).fontFamily;
      // on a touch screen a drag has to scroll the page
      layout.dragmode = matchMedia("(pointer: coarse)").matches ? false : "zoom";
      const box = document.getElementById(id);
      // plotly does not hear of printing: it is told the width of the paper, and back on the screen
      // to measure again
      if (paper.matches) layout.width = box.clientWidth;
      Plotly.react(box, data, layout, config);
      if (!paper.matches) Plotly.Plots.resize(box);
    }
  }

  function show() {
    for (const body of bodies) body.hidden = Number(body.dataset.measure) !== chosen;
    draw();
  }

  function sort(button) {
    const heading = button.closest("th");
    const descending = heading.getAttribute("aria-sort") === "ascending";
    for (const other of heading.parentNode.children) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
    const sign = descending ? -1 : 1;
    const key = (row) => {
      const cell = row.cells[heading.cellIndex];
      return "sort" in cell.dataset ? cell.dataset.sort : cell.textContent.trim();
    };
    const compare = (a, b) => {
      const [left, right] = [key(a), key(b)];
      // a row without a figure comes last either way
      if (left === "" || right === "") return (left === "") - (right === "");
      const difference = Number(left) - Number(right);
      return sign * (Number.isNaN(difference) ? left.localeCompare(right) : difference);
    };
    for (const body of heading.closest("table").tBodies) {
      const rows = [...body.rows].filter((row) => !row.classList.contains("group"));
      body.append(...rows.sort(compare));
    }
  }

  for (const choice of document.querySelectorAll("fieldset.switch")) {
    choice.hidden = choice.querySelectorAll("input").length < 2;
    choice.addEventListener("change", (event) => {
      chosen = Number(event.target.value);
      show();
    });
  }
  for (const button of document.querySelectorAll("table.sortable thead button")) {
    button.addEventListener("click", () => sort(button));
  }
  for (const button of document.querySelectorAll("button.save")) {
    button.hidden = false;
    button.addEventListener("click", () => {
      const id = button.dataset.chart;
      const box = document.getElementById(id);
      const { clientWidth: width, clientHeight: height } = box;
      Plotly.downloadImage(box, { format: "svg", filename: `matryo-${id}`, width, height });
    });
  }
  for (const media of [dark, paper, narrow]) media.addEventListener("change", draw);
  show();
})();
