"use strict";
// The rows of the canary table, as data: the page holds the first of them as HTML, and works without this script.
const data = JSON.parse(document.getElementById("canaries-data").textContent);
const table = document.getElementById("canaries");
const tools = document.getElementById("canaries-tools");
const body = table.tBodies[0];
const size = data.page_size;
const heads = [...table.querySelectorAll("thead th")].map((head) => head.textContent);
let order = { column: data.sorted_by, descending: true };
let page = 0;
let chosen = "";

function visible() {
  const rows = data.rows.filter((row) => chosen === "" || String(row[1]) === chosen);
  const sign = order.descending ? -1 : 1;
  const kind = (value) => (value === null ? 1 : 0);
  return rows.sort((a, b) => {
    const [x, y] = [a[order.column], b[order.column]];
    // What is undefined comes last, whichever way.
    if (kind(x) !== kind(y)) return kind(x) - kind(y);
    return x < y ? -sign : x > y ? sign : 0;
  });
}

function draw() {
  const rows = visible();
  const pages = Math.max(1, Math.ceil(rows.length / size));
  page = Math.min(Math.max(page, 0), pages - 1);
  body.replaceChildren(
    ...rows.slice(page * size, (page + 1) * size).map((row) => {
      const line = document.createElement("tr");
      data.columns.forEach((column, place) => {
        const cell = document.createElement("td");
        cell.className = column.kind;
        cell.dataset.head = heads[place];
        const value = row[place];
        cell.textContent = value === null ? "undefined" : column.digits === null ? value : value.toFixed(column.digits);
        line.append(cell);
      });
      return line;
    })
  );
  const last = Math.min(rows.length, (page + 1) * size);
  document.getElementById("canaries-place").textContent =
    `${rows.length ? page * size + 1 : 0} to ${last} of ${rows.length}`;
  document.getElementById("canaries-back").disabled = page === 0;
  document.getElementById("canaries-next").disabled = page === pages - 1;
}

table.querySelectorAll("thead th").forEach((head, column) => {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = head.textContent;
  button.addEventListener("click", () => {
    order = { column, descending: order.column === column ? !order.descending : data.columns[column].digits !== null };
    table.querySelectorAll("thead th").forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", order.descending ? "descending" : "ascending");
    page = 0;
    draw();
  });
  head.replaceChildren(button);
});

const counts = document.getElementById("canaries-counts");
for (const count of [...new Set(data.rows.map((row) => row[1]))].sort((a, b) => a - b)) {
  const option = document.createElement("option");
  option.value = String(count);
  option.textContent = count ? `inserted ${count}×` : "controls";
  counts.append(option);
}
counts.addEventListener("change", () => { chosen = counts.value; page = 0; draw(); });
document.getElementById("canaries-back").addEventListener("click", () => { page -= 1; draw(); });
document.getElementById("canaries-next").addEventListener("click", () => { page += 1; draw(); });
tools.hidden = false;
draw();
