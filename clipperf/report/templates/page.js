"use strict";
// Sorts and filters the tables, and hands the raw data out as files. Nothing of the page hangs on
// it, and it makes the controls itself, so that there are none where it does not run.
(() => {
  const order = new Intl.Collator("en", { numeric: true });
  const made = (name, values) => Object.assign(document.createElement(name), values);
  const next = { none: "ascending", ascending: "descending", descending: "none" };

  // What a cell is sorted by: its number in full precision, else its words; null for a number
  // that was not measured.
  const key = (row, at, numeric) => {
    const cell = row.cells[at];
    if (!numeric) return cell.textContent.trim();
    return cell.dataset.v === undefined ? null : Number(cell.dataset.v);
  };

  const compared = (a, b, sign) => {
    if (a === null || b === null) return (a === null) - (b === null);
    return sign * (typeof a === "number" ? a - b : order.compare(a, b));
  };

  // Each body is one model's, whose name stands above it: rows stay with theirs.
  const sort = (bodies, heads, at) => {
    const head = heads[at];
    const way = next[head.getAttribute("aria-sort") || "none"];
    for (const each of heads) each.removeAttribute("aria-sort");
    if (way !== "none") head.setAttribute("aria-sort", way);
    const numeric = head.classList.contains("n");
    const sign = way === "descending" ? -1 : 1;
    for (const { body, rows } of bodies) {
      const found = rows.map((row) => [key(row, at, numeric), row]);
      if (way !== "none") found.sort((a, b) => compared(a[0], b[0], sign));
      body.append(...found.map((pair) => pair[1]));
    }
    head.closest("table").classList.toggle("sorted", way !== "none");
  };

  const filter = (bodies, typed, told) => {
    const words = typed.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0, all = 0;
    for (const { model, rows, texts } of bodies) {
      let left = 0;
      rows.forEach((row, i) => {
        row.hidden = !words.every((word) => texts[i].includes(word));
        left += !row.hidden;
      });
      if (model) model.hidden = left === 0;
      shown += left;
      all += rows.length;
    }
    told.textContent = words.length ? `${shown} of ${all} rows contain "${typed.trim()}"` : "";
  };

  for (const table of document.querySelectorAll("main .scroll table")) {
    const heads = [...table.tHead.rows[0].cells];
    const bodies = [...table.tBodies].map((body) => {
      const model = body.querySelector("tr.model");
      const rows = [...body.rows].filter((row) => row !== model);
      const above = model ? model.textContent : "";
      const texts = rows.map((row) =>
        [above, ...[...row.cells].map((cell) => cell.textContent.trim())].join(" ").toLowerCase());
      return { body, model, rows, texts };
    });
    const most = Math.max(...bodies.map(({ rows }) => rows.length), 0);
    if (most < 2) continue;
    heads.forEach((head, at) => {
      const button = made("button", { type: "button", title: "Sort by this column" });
      button.append(...head.childNodes);
      button.addEventListener("click", () => sort(bodies, heads, at));
      head.append(button);
    });
    if (most < 4) continue;
    const told = made("span", { className: "told" });
    told.setAttribute("role", "status");
    const field = made("input", { type: "search", placeholder: "Rows that contain ..." });
    const box = table.closest(".scroll");
    field.setAttribute("aria-label", `Filter: ${box.getAttribute("aria-label")}`);
    field.addEventListener("input", () => filter(bodies, field.value, told));
    const tools = made("div", { className: "tools" });
    tools.append(field, told);
    box.before(tools);
  }

  for (const data of document.querySelectorAll("script[data-name]")) {
    const button = made("button", { type: "button", textContent: "Download", className: "get" });
    button.setAttribute("aria-label", `Download ${data.dataset.name}`);
    button.addEventListener("click", () => {
      const url = URL.createObjectURL(new Blob([data.textContent], { type: "application/json" }));
      made("a", { href: url, download: data.dataset.name }).click();
      setTimeout(() => URL.revokeObjectURL(url), 10000);
    });
    data.before(button);
  }
})();
