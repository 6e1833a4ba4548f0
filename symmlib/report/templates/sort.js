/* Tables of the class "sortable": each column's name becomes a button that sorts by it, down, up, and as it was. */
"use strict";
(() => {
  const FACTORS = {
    ns: 1e-9, "µs": 1e-6, us: 1e-6, ms: 1e-3, s: 1, min: 60, h: 3600,
    B: 1, KiB: 2 ** 10, MiB: 2 ** 20, GiB: 2 ** 30, TiB: 2 ** 40,
    "B/s": 1, "kB/s": 1e3, "MB/s": 1e6, "GB/s": 1e9, "TB/s": 1e12,
  };
  const NUMBER = "[-+−]?(?:\\d{1,3}(?:,\\d{3})+|\\d+)(?:\\.\\d+)?(?:e[-+]?\\d+)?";
  const UNIT = Object.keys(FACTORS).sort((a, b) => b.length - a.length).join("|");
  // "13.8 ms", "±3 %", "5.1x", "up to 64 KiB", "2 to 3 ms" (whose unit comes after its second number)
  const VALUE = new RegExp(
    `^(?:up to |above |from |below |about |TP=|QPS |[±<>≤≥~≈] ?)?(${NUMBER})` +
    `(?: ?(?:to|→|–) ?${NUMBER})? ?(${UNIT}|%|x|×)?(?![\\w.:/-])`);
  const order = new Intl.Collator("en", { numeric: true });
  const NEXT = { none: "ascending", ascending: "descending", descending: "none" };

  const said = (cell) => (cell ? cell.dataset.sort ?? cell.textContent : "").replace(/\s+/g, " ").trim();

  function number(text) {
    const found = VALUE.exec(text);
    return found ? Number(found[1].replaceAll(",", "").replace("−", "-")) * (FACTORS[found[2]] ?? 1) : NaN;
  }

  /* A function from a cell's text to what it is sorted by; what has no value in its column stands last either way. */
  function reading(texts) {
    const told = texts.filter((text) => /[^–—-]/.test(text));
    const numeric = told.filter((text) => !Number.isNaN(number(text))).length * 2 > told.length;
    return (text) => {
      if (!numeric) return /[^–—-]/.test(text) ? text : null;
      const value = number(text);
      return Number.isNaN(value) ? null : value;
    };
  }

  function compare(a, b) {
    return typeof a === "number" ? a - b : order.compare(a, b);
  }

  function sort(rows, column, direction) {
    const texts = rows.map((row) => said(row.cells[column]));
    const read = reading(texts);
    const keyed = rows.map((row, index) => ({ row, key: read(texts[index]) }));
    const sign = direction === "descending" ? -1 : 1;
    keyed.sort((a, b) => {
      if (a.key === null || b.key === null) return (a.key === null) - (b.key === null);
      return sign * compare(a.key, b.key);
    });
    return keyed.map(({ row }) => row);
  }

  function sortable(table, announce) {
    const heads = [...table.tHead.rows[table.tHead.rows.length - 1].cells];
    const bodies = [...table.tBodies].map((body) => ({ body, rows: [...body.rows] }));
    const spanned = table.querySelector("[rowspan], [colspan]");
    if (spanned || bodies.every(({ rows }) => rows.length < 2)) return; // such rows do not stand for themselves
    heads.forEach((head, column) => {
      const name = said(head);
      if (!name) return;
      const button = document.createElement("button");
      button.type = "button";
      button.className = "sort";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const direction = NEXT[head.getAttribute("aria-sort") ?? "none"];
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        if (direction !== "none") head.setAttribute("aria-sort", direction);
        for (const { body, rows } of bodies) body.replaceChildren(...(direction === "none" ? rows : sort(rows, column, direction)));
        announce(direction === "none" ? "In the first order again" : `Sorted by ${name}, ${direction}`);
      });
    });
  }

  const tables = document.querySelectorAll("table.sortable");
  if (!tables.length) return;
  const live = document.createElement("p");
  live.className = "announced";
  live.setAttribute("role", "status");
  (document.querySelector("main") ?? document.body).append(live);
  for (const table of tables) if (table.tHead) sortable(table, (words) => { live.textContent = words; });
})();
