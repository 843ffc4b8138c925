// sorts a table by the column whose heading is clicked: numbers by value (data-v), words by letter, empty ones last
document.querySelectorAll("table.sortable").forEach(table => {
  table.querySelectorAll("th").forEach((head, column) => head.querySelector("button")?.addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    table.querySelectorAll("th").forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const key = row => { const cell = row.cells[column]; return cell.dataset.v ?? cell.textContent; };
    const compare = (a, b) => (a === "") - (b === "") || (down ? -1 : 1) *
      (isNaN(a) || isNaN(b) ? a.localeCompare(b, "en", { numeric: true }) : a - b);
    [...table.tBodies[0].rows].sort((a, b) => compare(key(a), key(b))).forEach(row => table.tBodies[0].append(row));
  }));
});
