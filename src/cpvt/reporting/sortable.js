// Heads of a table's columns become buttons that sort its rows: first the largest number, then the smallest.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells], rows = [...table.tBodies[0].rows];
  const value = (row, column) =>  // the first column holds names, in the order of the page
    column === 0 ? rows.indexOf(row) : parseFloat(row.cells[column].textContent.replaceAll(",", ""));
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const before = head.getAttribute("aria-sort");
      const rising = before === null ? column === 0 : before === "descending";
      heads.forEach((each) => each.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", rising ? "ascending" : "descending");
      const order = (one, other) => {
        const [x, y] = [value(one, column), value(other, column)];
        return isNaN(x) - isNaN(y) || (rising ? x - y : y - x) || 0;  // what is missing comes last
      };
      table.tBodies[0].append(...[...rows].sort(order));
    });
  });
  heads[0].setAttribute("aria-sort", "ascending");
}
document.querySelector(".sorts").hidden = false;
