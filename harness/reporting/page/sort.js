"use strict";

document.documentElement.classList.add("js");

// Tables: a click on a heading sorts each group separately. The first click sorts numbers downwards and texts upwards;
// texts in a column of numbers come last.

for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => sort(table, heads, column)));
}

function sort(table, heads, column) {
  const read = (row) => {
    const text = row.cells[column].dataset.sort;
    return { row, text, number: text.trim() === "" ? NaN : Number(text) };
  };
  const groups = [...table.tBodies].map((body) => [...body.querySelectorAll("tr:not(.group)")].map(read));
  const numeric = groups.flat().some((each) => !Number.isNaN(each.number));
  const first = numeric ? "descending" : "ascending";
  const second = numeric ? "ascending" : "descending";
  const order = heads[column].ariaSort === first ? second : first;
  const sign = order === "ascending" ? 1 : -1;
  const compare = (a, b) => {
    if (!numeric) return sign * a.text.localeCompare(b.text, "en", { numeric: true });
    const missing = Number.isNaN(a.number) - Number.isNaN(b.number);
    return missing || (Number.isNaN(a.number) ? 0 : sign * (a.number - b.number));
  };
  heads.forEach((head) => { head.ariaSort = "none"; });
  heads[column].ariaSort = order;
  groups.forEach((lines, at) => table.tBodies[at].append(...lines.sort(compare).map((each) => each.row)));
}
