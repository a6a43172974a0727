"use strict";
// Sorting, choosing and the theme; without this script everything is there to be read.
(() => {
  const words = new Intl.Collator("en", { numeric: true, sensitivity: "base" });
  const make = (tag, options, ...inside) => {
    const made = Object.assign(document.createElement(tag), options);
    made.append(...inside);
    return made;
  };
  const textOf = (cell) => cell.textContent.trim();
  const numberOf = (cell) => {
    const given = cell.dataset.k;
    const text = (given ?? textOf(cell)).replaceAll("\u2212", "-").replace(/(\d),(?=\d{3})/g, "$1");
    return /^[+-]?\.?\d/.test(text) ? parseFloat(text) : NaN;
  };
  const isEmpty = (cell) => ["", "-", "."].includes(textOf(cell));

  const sort = (table, column, order, first) => {
    const body = table.tBodies[0];
    if (!order) {
      body.append(...first);
      return;
    }
    const cells = first.map((row) => row.cells[column]).filter((cell) => !isEmpty(cell));
    const numeric = cells.every((cell) => !Number.isNaN(numberOf(cell)));
    const keyed = first.map((row) => {
      const cell = row.cells[column];
      return { row, empty: isEmpty(cell), key: numeric ? numberOf(cell) : textOf(cell) };
    });
    keyed.sort((a, b) => {
      if (a.empty || b.empty) return a.empty - b.empty;
      return order * (numeric ? a.key - b.key : words.compare(a.key, b.key));
    });
    body.append(...keyed.map((one) => one.row));
  };

  const sortable = (table, rows) => {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      const button = make("button", { type: "button" }, ...head.childNodes);
      button.addEventListener("click", () => {
        const next = { ascending: "descending", descending: "" }[head.getAttribute("aria-sort")] ?? "ascending";
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        if (next) head.setAttribute("aria-sort", next);
        sort(table, column, { ascending: 1, descending: -1 }[next] ?? 0, rows);
      });
      head.append(button);
    });
  };

  const narrowing = (table, rows, title) => {
    const form = make("form", { className: "filter controls" });
    form.setAttribute("role", "search");
    form.setAttribute("aria-label", `Narrow down: ${title}`);
    const chosen = [];
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      if (!("choice" in head.dataset)) return;
      const values = [...new Set(rows.map((row) => textOf(row.cells[column])))].sort(words.compare);
      const options = values.map((value) => make("option", { value: `=${value}`, textContent: value || "(none)" }));
      const select = make("select", {}, make("option", { value: "", textContent: "all" }), ...options);
      chosen.push({ select, column });
      form.append(make("label", {}, textOf(head), select));
    });
    const search = make("input", { type: "search", placeholder: "text in a row" });
    const count = make("output", {});
    const reset = make("button", { type: "reset", textContent: "Show all" });
    form.append(make("label", {}, "search", search), reset, count);
    const texts = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));
    const apply = () => {
      const wanted = search.value.trim().toLowerCase();
      let shown = 0;
      for (const row of rows) {
        const fits = chosen.every((one) => !one.select.value || one.select.value === `=${textOf(row.cells[one.column])}`);
        row.hidden = !(fits && texts.get(row).includes(wanted));
        shown += !row.hidden;
      }
      count.textContent = `${shown.toLocaleString("en")} of ${rows.length.toLocaleString("en")} rows`;
      reset.hidden = shown === rows.length;
    };
    for (const event of ["input", "change"]) form.addEventListener(event, apply);
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("reset", () => setTimeout(apply));
    apply();
    table.closest(".scroll").before(form);
  };

  for (const table of document.querySelectorAll("table[data-controls]")) {
    const rows = [...table.tBodies[0].rows];
    narrowing(table, rows, textOf(table.caption));
    sortable(table, rows);
  }

  const root = document.documentElement;
  const button = document.getElementById("theme");
  const kept = (value) => {
    try {
      if (value === undefined) return localStorage.getItem("lit_aux-theme");
      localStorage.setItem("lit_aux-theme", value);
    } catch {
      return null; // a page from a mail may have no storage
    }
    return value;
  };
  const show = (theme) => {
    root.dataset.theme = theme;
    button.textContent = theme === "dark" ? "Light" : "Dark";
    button.setAttribute("aria-pressed", String(theme === "dark"));
  };
  show(kept() ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light"));
  button.hidden = false;
  button.addEventListener("click", () => {
    const theme = root.dataset.theme === "dark" ? "light" : "dark";
    show(theme);
    kept(theme);
  });
  addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((one) => { one.open = true; }));
})();
